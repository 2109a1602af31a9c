/* SPDX-License-Identifier: MIT
 *
 * A library whose SIGSEGV handler asks for no alternate stack and uses a good deal of its thread's:
 * go(kib, thread) ends the process with 7 when all went well.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int kib;

__attribute__((noinline)) static void use(int n)
{
    volatile char room[1024];
    memset((char *)room, n, sizeof room);
    if (n > 0)
        use(n - 1);
    room[0] = room[1];
}

static void handler(int sig)
{
    (void)sig;
    use(kib);
    if (write(1, "handler ok\n", 11) < 0)
        _exit(8);
    _exit(7);
}

static void *crash(void *unused)
{
    *(volatile int *)unused = 1;
    return unused;
}

int go(int size, int thread)
{
    struct sigaction act = {.sa_handler = handler};
    pthread_t t;

    kib = size;
    sigaction(SIGSEGV, &act, NULL);
    if (!thread)
        crash(NULL);
    if (pthread_create(&t, NULL, crash, NULL) == 0)
        pthread_join(t, NULL);
    return 0;
}
