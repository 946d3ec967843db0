/* What `make bench` measures the agent beside: as little as can do its job, and its worst neighbor.
 *
 *   bench floor IFNAME ADDRESS [IFNAME ADDRESS]...   hears RARPs, sets host routes, waits for the acks
 *   bench flood IFNAME arp|udp PER_SECOND            sends frames until it is killed
 *   bench relay IFNAME PEER PORT ADDRESS4 ADDRESS6   hears RARPs; for each it sets a neighbor's entry
 *                                                    and a host route in both families, and only
 *                                                    then tells PEER by a datagram
 *   bench redirect PORT IFNAME ADDRESS4 ADDRESS6     hears datagrams; for each it replaces both host
 *                                                    routes, by ones into a tunnel in turns
 *
 * The last two together ask the kernel for what the agents ask it for to lead a guest's late packets
 * on from the node that it has left, and do nothing else.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/lwtunnel.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PROTOCOL = 99, METRIC = 512, BATCH = 64 };

struct request {
    struct nlmsghdr header;
    union {
        struct rtmsg route;
        struct ndmsg neighbor;
    };
    char attributes[128];
};

struct guest {
    int socket;
    struct request request;
};

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* Writes one attribute; returns the bytes that it takes, a multiple of four. */
static int put_at(char *place, int type, const void *value, int size) {
    struct rtattr attribute = {.rta_type = (unsigned short)type, .rta_len = RTA_LENGTH(size)};
    memcpy(place, &attribute, sizeof attribute);
    memcpy(place + RTA_LENGTH(0), value, (size_t)size);
    return RTA_SPACE(size);
}

static void put(struct request *request, int type, const void *value, int size) {
    char *end = (char *)request + request->header.nlmsg_len;
    request->header.nlmsg_len += (unsigned)put_at(end, type, value, size);
}

static int listen_on(int index) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETHERTYPE_REVARP, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 128),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    struct sockaddr_ll here = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = index};
    int one = 1, sock = socket(AF_PACKET, SOCK_RAW, 0);
    if (sock < 0 || setsockopt(sock, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) ||
        setsockopt(sock, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) ||
        bind(sock, (struct sockaddr *)&here, sizeof here))
        die("packet socket");
    return sock;
}

/* Fills in an address of either family; returns its size in bytes. */
static int read_address(const char *text, void *address, unsigned char *family) {
    *family = strchr(text, ':') ? AF_INET6 : AF_INET;
    if (inet_pton(*family, text, address) != 1) die(text);
    return *family == AF_INET ? 4 : 16;
}

static struct request route_to(const char *text, const char *name) {
    unsigned index = if_nametoindex(name), metric = METRIC;
    struct in6_addr address;
    if (!index) die(name);
    struct request made = {
        .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)),
                   .nlmsg_type = RTM_NEWROUTE,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK},
        .route = {.rtm_table = RT_TABLE_MAIN, .rtm_protocol = PROTOCOL, .rtm_scope = RT_SCOPE_LINK,
                  .rtm_type = RTN_UNICAST}};
    int size = read_address(text, &address, &made.route.rtm_family);
    made.route.rtm_dst_len = (unsigned char)(8 * size);
    put(&made, RTA_DST, &address, size);
    put(&made, RTA_OIF, &index, 4);
    put(&made, RTA_PRIORITY, &metric, 4);
    return made;
}

static struct request neighbor_at(const char *text, const char *name) {
    static const unsigned char mac[] = {0x52, 0x54, 0, 0x66, 0, 1};
    struct in6_addr address;
    struct request made = {
        .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ndmsg)),
                   .nlmsg_type = RTM_NEWNEIGH,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK},
        .neighbor = {.ndm_ifindex = (int)if_nametoindex(name), .ndm_state = NUD_REACHABLE}};
    int size = read_address(text, &address, &made.neighbor.ndm_family);
    put(&made, NDA_DST, &address, size);
    put(&made, NDA_LLADDR, mac, sizeof mac);
    return made;
}

/* Makes it lead into a tunnel: the id is in network order, the node at the other end is nobody. */
static void encapsulate(struct request *route) {
    static const unsigned char id[8] = {[7] = 88}, remote[4] = {192, 0, 2, 87};
    uint16_t type = LWTUNNEL_ENCAP_IP;
    char nested[32];
    int size = put_at(nested, LWTUNNEL_IP_ID, id, sizeof id);
    size += put_at(nested + size, LWTUNNEL_IP_DST, remote, sizeof remote);
    put(route, RTA_ENCAP_TYPE, &type, sizeof type);
    put(route, RTA_ENCAP | NLA_F_NESTED, nested, size);
}

/* Sends the routes of all guests that were heard in one message, and reads the kernel's answers: one
 * guest is one of each, and twenty at once cost no more system calls than they must. */
static void set_routes(int kernel, struct iovec *requests, int count) {
    char ack[4096];
    struct msghdr message = {.msg_iov = requests, .msg_iovlen = (size_t)count};
    if (sendmsg(kernel, &message, 0) < 0) die("netlink");
    for (int i = 0; i < count; i++)
        if (recv(kernel, ack, sizeof ack, 0) < 0) die("netlink");
}

static void ask(int kernel, struct request *requests, int count) {
    struct iovec parts[4];
    for (int i = 0; i < count; i++)
        parts[i] = (struct iovec){&requests[i], requests[i].header.nlmsg_len};
    set_routes(kernel, parts, count);
}

static void say_ready(void) {
    puts("ready");
    fflush(stdout);
}

static void run_floor(int count, char **words) {
    struct guest *guests = calloc((size_t)count, sizeof *guests);
    int queue = epoll_create1(0), kernel = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    char frame[128];
    for (int i = 0; i < count; i++) {
        guests[i].request = route_to(words[2 * i + 1], words[2 * i]);
        guests[i].socket = listen_on((int)if_nametoindex(words[2 * i]));
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (unsigned)i};
        if (epoll_ctl(queue, EPOLL_CTL_ADD, guests[i].socket, &event)) die("epoll");
    }
    say_ready();
    for (;;) {
        struct epoll_event events[BATCH];
        struct iovec requests[BATCH];
        int heard = epoll_wait(queue, events, BATCH, -1);
        if (heard < 1) die("epoll_wait");
        for (int i = 0; i < heard; i++) {
            struct guest *guest = &guests[events[i].data.u32];
            if (recv(guest->socket, frame, sizeof frame, 0) < 0) die("recv");
            /* The kernel reads one message after the other at multiples of four bytes, which every
             * attribute here is: no padding is needed between them. */
            requests[i] = (struct iovec){&guest->request, guest->request.header.nlmsg_len};
        }
        set_routes(kernel, requests, heard);
    }
}

static struct sockaddr_in at(const char *address, const char *port) {
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, address, &where.sin_addr) != 1) die(address);
    return where;
}

/* As the agent does: before all of the normal class; where a control group has no time of that
 * class, in slices of 0.1 ms, so that what has been woken runs soon. */
static void hurry(void) {
    struct sched_param first = {.sched_priority = sched_get_priority_min(SCHED_FIFO)};
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } slices = {.size = 48, .nice = getpriority(PRIO_PROCESS, 0), .runtime = 100000};
    if (sched_setscheduler(0, SCHED_FIFO, &first)) syscall(SYS_sched_setattr, 0, &slices, 0);
}

static void run_relay(char **words) {
    const char *name = words[0], *peer = words[1];
    struct sockaddr_in where = at(peer, words[2]);
    int frames = listen_on((int)if_nametoindex(name)), sock = socket(AF_INET, SOCK_DGRAM, 0);
    int kernel = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    struct request in[] = {neighbor_at(words[3], name), route_to(words[3], name),
                           neighbor_at(words[4], name), route_to(words[4], name)};
    struct request out[] = {in[1], in[3]};
    for (int i = 0; i < 2; i++) {
        out[i].header.nlmsg_type = RTM_DELROUTE;
        out[i].header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    }
    char frame[128];
    if (connect(sock, (struct sockaddr *)&where, sizeof where)) die(peer);
    hurry();
    say_ready();
    for (;;) {
        ssize_t size = recv(frames, frame, sizeof frame, 0);
        /* Nobody may listen there so far, or any more: the next one tells again. */
        if (size < 0 && errno != ENETDOWN) die("recv");
        if (size < 0) continue;
        ask(kernel, in, 4);
        (void)!send(sock, frame, (size_t)size, 0);
        /* Out of the way of the other side's work, and the next time they are new again. */
        usleep(20000);
        ask(kernel, out, 2);
    }
}

static void run_redirect(char **words) {
    struct sockaddr_in here = at("0.0.0.0", words[0]);
    int sock = socket(AF_INET, SOCK_DGRAM, 0), kernel = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    /* The kernel tells nobody of a route that is replaced by its like, so there are two ways. */
    struct request ways[2][2];
    char datagram[128];
    for (int i = 0; i < 2; i++) {
        ways[0][i] = route_to(words[2 + i], words[1]);
        encapsulate(&ways[0][i]);
        ways[1][i] = route_to(words[2 + i], "lo");
    }
    if (bind(sock, (struct sockaddr *)&here, sizeof here)) die("bind");
    hurry();
    /* Whatever an earlier one of these has left, the first one's way is news. */
    ask(kernel, ways[1], 2);
    say_ready();
    for (int turn = 0;; turn ^= 1) {
        if (recv(sock, datagram, sizeof datagram, 0) < 0) die("recv");
        ask(kernel, ways[turn], 2);
    }
}

static void run_flood(const char *name, const char *kind, long per_second) {
    unsigned char frame[60] = {0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0x52, 0x54, 0, 0x66, 0, 1};
    struct sockaddr_ll here = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(name)};
    int sock = socket(AF_PACKET, SOCK_RAW, 0);
    struct mmsghdr messages[BATCH];
    struct iovec part = {frame, sizeof frame};
    struct timespec due;
    if (!strcmp(kind, "arp")) {
        static const unsigned char arp[] = {8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0x66, 0, 1,
                                            10, 66, 0, 1, 0, 0, 0, 0, 0, 0, 10, 66, 0, 1};
        memset(frame, 0xff, 6);
        memcpy(frame + 12, arp, sizeof arp);
    } else {
        frame[12] = 8;
        frame[14] = 0x45;
        frame[17] = 46;
        frame[22] = 64;
        frame[23] = 17;
    }
    if (sock < 0 || bind(sock, (struct sockaddr *)&here, sizeof here)) die(name);
    for (int i = 0; i < BATCH; i++)
        messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1}};
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (;;) {
        sendmmsg(sock, messages, BATCH, 0);
        due.tv_nsec += BATCH * 1000000000L / per_second;
        if (due.tv_nsec >= 1000000000L) due.tv_sec++, due.tv_nsec -= 1000000000L;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
    }
}

int main(int argc, char **argv) {
    if (argc >= 4 && argc % 2 == 0 && !strcmp(argv[1], "floor"))
        run_floor((argc - 2) / 2, argv + 2);
    if (argc == 5 && !strcmp(argv[1], "flood")) run_flood(argv[2], argv[3], atol(argv[4]));
    if (argc == 7 && !strcmp(argv[1], "relay")) run_relay(argv + 2);
    if (argc == 6 && !strcmp(argv[1], "redirect")) run_redirect(argv + 2);
    fprintf(stderr, "bench floor IFNAME ADDRESS... | flood IFNAME arp|udp PER_SECOND |\n"
                    "      relay IFNAME PEER PORT ADDRESS4 ADDRESS6 |\n"
                    "      redirect PORT IFNAME ADDRESS4 ADDRESS6\n");
    return 2;
}
