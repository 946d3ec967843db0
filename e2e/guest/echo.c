/* The guest's only services. Port 7 says what it heard, and proves that its memory moved with it;
 * 9 takes whatever comes (discard), 19 sends a steady stream (chargen).
 *
 * UDP: each datagram goes back as it came.
 * TCP: each line "X" is answered by "BOOT COUNT X". BOOT is drawn once per boot, COUNT is how many
 * lines this connection has sent: neither survives a reboot or a new connection, so a client that
 * sees both go on knows that the very same memory answers. Try it: nc 10.65.0.2 7
 *
 * The stream is a segment every 20 ms and no more: an emulated processor has other things to do.
 *
 * One process, one poll loop, no allocation. IPv4 arrives as mapped IPv6.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ECHO = 7, DISCARD = 9, CHARGEN = 19, SESSIONS = 32, LINE = 128, SEGMENT = 1400, TICK_MS = 20 };
enum { UDP = 0, LISTENER = 1, FIRST = 4 };

static const int ports[] = {ECHO, DISCARD, CHARGEN};

struct session {
    int port;
    uint64_t count;
    size_t length;
    char line[LINE];
};

static uint32_t boot;
static struct pollfd polled[FIRST + SESSIONS];
static struct session sessions[FIRST + SESSIONS];

static int open_port(int type, int port) {
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    int descriptor = socket(AF_INET6, type | SOCK_NONBLOCK, 0), on = 1, off = 0;

    setsockopt(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(descriptor, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on);
    if (bind(descriptor, (struct sockaddr *)&any, sizeof any) < 0) perror("bind");
    if (type == SOCK_STREAM && listen(descriptor, SESSIONS) < 0) perror("listen");
    return descriptor;
}

/* The control message goes back too: the answer leaves from the address that was asked. */
static void answer_datagrams(int descriptor) {
    char payload[2048], control[256];
    struct sockaddr_in6 peer;

    for (;;) {
        struct iovec part = {payload, sizeof payload};
        struct msghdr message = {&peer, sizeof peer, &part, 1, control, sizeof control, 0};
        ssize_t length = recvmsg(descriptor, &message, 0);

        if (length < 0) return;
        part.iov_len = (size_t)length;
        sendmsg(descriptor, &message, MSG_NOSIGNAL);
    }
}

static void accept_session(int descriptor, int port) {
    int peer = accept4(descriptor, NULL, NULL, SOCK_NONBLOCK), on = 1;

    if (peer < 0) return;
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    for (int slot = FIRST; slot < FIRST + SESSIONS; slot++)
        if (polled[slot].fd < 0) {
            polled[slot] = (struct pollfd){peer, POLLIN, 0};
            sessions[slot] = (struct session){.port = port};
            return;
        }
    close(peer);
}

/* False when the peer is gone, sends longer lines than we keep, or does not read its answers. */
static int answer_lines(int descriptor, struct session *session) {
    char *end, answer[LINE + 48];
    ssize_t got = recv(descriptor, session->line + session->length,
                       sizeof session->line - session->length, 0);

    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return 0;
    session->length += (size_t)got;
    while ((end = memchr(session->line, '\n', session->length))) {
        size_t used = (size_t)(end - session->line) + 1;
        int size = snprintf(answer, sizeof answer, "%08x %llu %.*s", boot,
                            (unsigned long long)++session->count, (int)used, session->line);

        if (send(descriptor, answer, (size_t)size, MSG_NOSIGNAL) != size) return 0;
        session->length -= used;
        memmove(session->line, end + 1, session->length);
    }
    return session->length < sizeof session->line;
}

/* False when the peer is gone. */
static int discard(int descriptor) {
    static char heard[65536];
    ssize_t got;

    while ((got = recv(descriptor, heard, sizeof heard, 0)) > 0) continue;
    return got < 0 && (errno == EAGAIN || errno == EINTR);
}

static int serve(int descriptor, struct session *session) {
    return session->port == ECHO ? answer_lines(descriptor, session) : discard(descriptor);
}

static long now_ms(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Sends each stream its next segment; returns how many streams there are. A full socket has enough. */
static int stream(void) {
    static const char segment[SEGMENT];
    int streams = 0;

    for (int slot = FIRST; slot < FIRST + SESSIONS; slot++)
        if (polled[slot].fd >= 0 && sessions[slot].port == CHARGEN) {
            streams++;
            send(polled[slot].fd, segment, sizeof segment, MSG_NOSIGNAL);
        }
    return streams;
}

int main(void) {
    int streams = 0;
    long due = 0;

    if (getrandom(&boot, sizeof boot, GRND_NONBLOCK | GRND_INSECURE) < 0) boot = (uint32_t)getpid();
    for (int slot = 0; slot < FIRST + SESSIONS; slot++) polled[slot] = (struct pollfd){-1, POLLIN, 0};
    polled[UDP].fd = open_port(SOCK_DGRAM, ECHO);
    for (int i = 0; i < FIRST - LISTENER; i++) polled[LISTENER + i].fd = open_port(SOCK_STREAM, ports[i]);
    puts("guest: ready");
    fflush(stdout);
    for (;;) {
        long wait = due - now_ms();

        if (poll(polled, FIRST + SESSIONS, streams ? (wait > 0 ? (int)wait : 0) : -1) < 0
            && errno != EINTR) return 1;
        if (polled[UDP].revents) answer_datagrams(polled[UDP].fd);
        for (int i = 0; i < FIRST - LISTENER; i++)
            if (polled[LISTENER + i].revents) {
                accept_session(polled[LISTENER + i].fd, ports[i]);
                streams += ports[i] == CHARGEN;
            }
        for (int slot = FIRST; slot < FIRST + SESSIONS; slot++)
            if (polled[slot].fd >= 0 && polled[slot].revents
                && !serve(polled[slot].fd, &sessions[slot])) {
                close(polled[slot].fd);
                polled[slot].fd = -1;
            }
        if (streams && now_ms() >= due) {
            /* Missed ones are not made up for: after the guest's pause there would be a burst. */
            due = now_ms() + TICK_MS;
            streams = stream();
        }
    }
}
