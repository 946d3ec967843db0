/* The first process of every pod: it holds the pod's namespaces and does nothing else. */
#include <unistd.h>

int main(void) {
    for (;;)
        pause();
}
