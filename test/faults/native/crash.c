/* SPDX-License-Identifier: MIT
 *
 * Functions that die in known ways under known names: the tests look for these names in the stack.
 * Loaded by ctypes. Compiled with little optimisation, so that each frame exists.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

__attribute__((noinline)) static int crash_inner_store(volatile int *where)
{
    *where = 1;
    return *where;
}

__attribute__((noinline)) int crash_decode_block(long address)
{
    int r = crash_inner_store((volatile int *)address);
    return r + 1;
}

__attribute__((noinline)) int crash_in_libc(long size)
{
    char *small = malloc(16);
    memset(small, 1, (size_t)size); /* runs off the end of the heap, inside libc */
    return small[0];
}

static int crash_recurse(int n)
{
    volatile char room[512];
    room[0] = (char)n;
    return crash_recurse(n + 1) + room[0];
}

int crash_stack_overflow(void)
{
    return crash_recurse(0);
}

int crash_abort(void)
{
    fputs("solver: matrix is singular, giving up\n", stderr);
    abort();
}

int crash_double_free(void)
{
    char *volatile block = malloc(64);
    free(block);
    free(block);
    return 0;
}

int crash_bad_free(void)
{
    char *block = calloc(1, 64); /* zeros, so that the chunk before `inside` has no flags */
    char *volatile inside = block + 8;
    free(inside);
    return 0;
}

int crash_divide(int zero)
{
    volatile int one = 1;
    return one / zero;
}

int crash_illegal(void)
{
    __asm__ volatile("ud2");
    return 0;
}

/* A misaligned access with alignment checking on: SIGBUS BUS_ADRALN, no memory is at fault. */
int crash_misaligned(void)
{
#ifdef __x86_64__
    static char data[64];
    __asm__ volatile("pushf\n\torl $0x40000, (%rsp)\n\tpopf");
    volatile int *odd = (volatile int *)(void *)(data + 1);
    return *odd;
#else
    return 0;
#endif
}

int crash_trap(void)
{
    __asm__ volatile("int3");
    return 0;
}

/* ---- a handler that repairs the fault: no incident ---- */
static char *guarded_page;

static void repair(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    mprotect(guarded_page, 4096, PROT_READ | PROT_WRITE);
}

int fault_repaired(void)
{
    struct sigaction action = {.sa_sigaction = repair, .sa_flags = SA_SIGINFO}, old;
    guarded_page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaction(SIGSEGV, &action, &old);
    int n = 0;
    for (int i = 0; i < 50; i++) {
        mprotect(guarded_page, 4096, PROT_NONE);
        guarded_page[0] = (char)i;
        n += guarded_page[0] == i;
    }
    sigaction(SIGSEGV, &old, NULL);
    return n;
}

/* ---- threads in which nobody can look: signal blocked, no alternate stack ---- */
static void *blocked_main(void *address)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    crash_decode_block((long)address);
    return NULL;
}

int crash_in_blocked_thread(long address)
{
    pthread_t thread;
    pthread_create(&thread, NULL, blocked_main, (void *)address);
    pthread_join(thread, NULL);
    return 0;
}

static void *overflow_main(void *unused)
{
    (void)unused;
    return (void *)(intptr_t)crash_recurse(0);
}

int crash_overflow_in_thread(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, overflow_main, NULL);
    pthread_join(thread, NULL);
    return 0;
}

static void *store_main(void *address)
{
    crash_decode_block((long)address);
    return NULL;
}

/* Several threads fault at the same time. */
int crash_many_threads(long address)
{
    pthread_t thread[8];
    for (int i = 0; i < 8; i++)
        pthread_create(&thread[i], NULL, store_main, (void *)address);
    for (int i = 0; i < 8; i++)
        pthread_join(thread[i], NULL);
    return 0;
}
