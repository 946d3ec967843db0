/* What `make bench` measures the agent beside: as little as can do its job, and its worst neighbor.
 *
 *   bench floor IFNAME ADDRESS [IFNAME ADDRESS]...   hears RARPs, sets host routes, waits for the acks
 *   bench flood IFNAME arp|udp PER_SECOND            sends frames until it is killed
 *   bench relay IFNAME PEER PORT                     hears RARPs, tells PEER by a datagram each
 *   bench redirect PORT IFNAME ADDRESS               hears datagrams, replaces a host route for each
 *
 * The last two together do the least of what leads a guest's late packets on from the node that it
 * has left.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
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
    struct rtmsg route;
    char attributes[64];
};

struct guest {
    int socket;
    struct request request;
};

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void put(struct request *request, int type, const void *value, int size) {
    struct rtattr *attribute =
        (struct rtattr *)((char *)request + NLMSG_ALIGN(request->header.nlmsg_len));
    attribute->rta_type = type;
    attribute->rta_len = RTA_LENGTH(size);
    memcpy(RTA_DATA(attribute), value, size);
    request->header.nlmsg_len =
        NLMSG_ALIGN(request->header.nlmsg_len) + RTA_ALIGN(attribute->rta_len);
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

static void prepare(struct guest *guest, const char *name, const char *address) {
    unsigned index = if_nametoindex(name), metric = METRIC;
    struct in_addr destination;
    if (!index || inet_pton(AF_INET, address, &destination) != 1) die(name);
    guest->request = (struct request){
        .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)),
                   .nlmsg_type = RTM_NEWROUTE,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK},
        .route = {.rtm_family = AF_INET, .rtm_dst_len = 32, .rtm_table = RT_TABLE_MAIN,
                  .rtm_protocol = PROTOCOL, .rtm_scope = RT_SCOPE_LINK, .rtm_type = RTN_UNICAST}};
    put(&guest->request, RTA_DST, &destination, 4);
    put(&guest->request, RTA_OIF, &index, 4);
    put(&guest->request, RTA_PRIORITY, &metric, 4);
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

static void set_route(int kernel, struct guest *guest) {
    struct iovec request = {&guest->request, guest->request.header.nlmsg_len};
    set_routes(kernel, &request, 1);
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
        prepare(&guests[i], words[2 * i], words[2 * i + 1]);
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

static void run_relay(const char *name, const char *peer, const char *port) {
    struct sockaddr_in where = at(peer, port);
    int frames = listen_on((int)if_nametoindex(name)), sock = socket(AF_INET, SOCK_DGRAM, 0);
    char frame[128];
    if (connect(sock, (struct sockaddr *)&where, sizeof where)) die(peer);
    hurry();
    say_ready();
    for (;;) {
        ssize_t size = recv(frames, frame, sizeof frame, 0);
        /* Nobody may listen there so far, or any more: the next one tells again. */
        if (size < 0 && errno != ENETDOWN) die("recv");
        if (size >= 0) (void)!send(sock, frame, (size_t)size, 0);
    }
}

static void run_redirect(const char *port, const char *name, const char *address) {
    struct sockaddr_in here = at("0.0.0.0", port);
    int sock = socket(AF_INET, SOCK_DGRAM, 0), kernel = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    /* The kernel tells nobody of a route that is replaced by its like, so there are two ways. */
    struct guest ways[2];
    char datagram[128];
    prepare(&ways[0], name, address);
    prepare(&ways[1], "lo", address);
    if (bind(sock, (struct sockaddr *)&here, sizeof here)) die("bind");
    hurry();
    /* Whatever an earlier one of these has left, the first one's way is news. */
    set_route(kernel, &ways[1]);
    say_ready();
    for (int turn = 0;; turn ^= 1) {
        if (recv(sock, datagram, sizeof datagram, 0) < 0) die("recv");
        set_route(kernel, &ways[turn]);
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
    if (argc == 5 && !strcmp(argv[1], "relay")) run_relay(argv[2], argv[3], argv[4]);
    if (argc == 5 && !strcmp(argv[1], "redirect")) run_redirect(argv[2], argv[3], argv[4]);
    fprintf(stderr, "bench floor IFNAME ADDRESS... | flood IFNAME arp|udp PER_SECOND |\n"
                    "      relay IFNAME PEER PORT | redirect PORT IFNAME ADDRESS\n");
    return 2;
}
