/* The first process of every pod: it holds the pod's namespaces and does nothing else. As the
 * program of a container it ends well when it is asked to. */
#include <signal.h>
#include <unistd.h>

static void end(int number) {
    (void)number;
    _exit(0);
}

int main(void) {
    signal(SIGTERM, end);
    for (;;)
        pause();
}
