/* SPDX-License-Identifier: MIT
 *
 * A thread reads where nothing is mapped; another maps something there a little later. argv[1]:
 * microseconds in between. Without us the process is long dead by then.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static char *at;
static int wait_us;
static volatile int go;

static void *mapper(void *unused)
{
    while (!go)
        ;
    usleep((useconds_t)wait_us);
    mmap(at, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t t;

    wait_us = argc > 1 ? atoi(argv[1]) : 1000;
    at = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(at, 4096);
    pthread_create(&t, NULL, mapper, NULL);
    usleep(20000);
    go = 1;
    int got = *(volatile char *)at;
    printf("survived: read %d\n", got);
    return 0;
}
