/* SPDX-License-Identifier: MIT
 *
 * Threads: why one could not be made, and an alternate signal stack for each, since without one a
 * stack overflow ends the process before any handler runs. Start arguments live at the top of the
 * region, so nothing is allocated; a region is given back by a thread key's destructor, which also
 * runs under pthread_exit. A few regions are kept for the next thread. An alternate stack that the
 * program sets for itself is never touched.
 */
#include "internal.h"
#include <pthread.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif
#define PAGE page
/* Ours needs a few KiB; but the program's own handler runs there too, also one that asked for no alternate
 * stack and would have had the whole of the thread's. Untouched pages cost nothing but address space. */
#define THREAD_ROOM (256ul << 10)
#define MAIN_ROOM (8ul << 20)
#define MAIN_ROOM_SMALL (128ul << 10) /* where the address space is limited */
#define KEPT 16

static size_t page = 4096; /* 64 KiB on some aarch64 kernels: a guard must be whole pages */

struct start {
    void *(*run)(void *);
    void *arg;
};

static char *main_region; /* the main thread's; NULL: it had one of its own, or there was no room */
static size_t main_size;
static size_t thread_size; /* guard, stack and start arguments; 0: no stacks for threads */
static pthread_key_t key;
static _Atomic(char *) kept[KEPT];

/* Bound by start.c, exported under no name: both have a GLIBC_2.34 version on newer systems. */
static int (*key_create)(pthread_key_t *, void (*)(void *));
static int (*set_specific)(pthread_key_t, const void *);
static const struct nng_hook bind_create = {"pthread_key_create", (void **)&key_create};
static const struct nng_hook bind_set = {"pthread_setspecific", (void **)&set_specific};
static const struct nng_hook *const bind_create_p __attribute__((used, section("nng_hooks"))) =
    &bind_create;
static const struct nng_hook *const bind_set_p __attribute__((used, section("nng_hooks"))) =
    &bind_set;

/* ---- regions -------------------------------------------------------------------------------------- */
static char *map_region(size_t size)
{
    long r = nng_sys6(SYS_mmap, 0, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (r < 0 && r >= -4095)
        return 0;
    if (nng_sys3(SYS_mprotect, r, PAGE, PROT_NONE)) {
        nng_sys2(SYS_munmap, r, size);
        return 0;
    }
    return (char *)r;
}

static char *take_region(void)
{
    for (int i = 0; i < KEPT; i++) {
        /* the plain look spares the locked exchange; acquire: pairs with the release in give_region */
        char *r = atomic_load_explicit(&kept[i], memory_order_relaxed);
        if (r && (r = atomic_exchange_explicit(&kept[i], NULL, memory_order_acquire)))
            return r;
    }
    return map_region(thread_size);
}

static void give_region(char *r)
{
    for (int i = 0; i < KEPT; i++) {
        char *none = 0;
        if (!atomic_load_explicit(&kept[i], memory_order_relaxed) &&
            atomic_compare_exchange_strong_explicit(&kept[i], &none, r, memory_order_release,
                                                    memory_order_relaxed))
            return;
    }
    nng_sys2(SYS_munmap, r, thread_size);
}

static struct start *start_of(char *region)
{
    return (struct start *)(region + thread_size - sizeof(struct start));
}

static long set_stack(char *region, size_t size)
{
    stack_t ss = {.ss_sp = region + PAGE, .ss_size = size - PAGE - 64};
    return nng_sys2(SYS_sigaltstack, &ss, 0);
}

/* ---- a thread's life ------------------------------------------------------------------------------ */
static void thread_ends(void *p)
{
    char *region = p;
    stack_t off = {.ss_flags = SS_DISABLE}, was = {0};
    nng_sys2(SYS_sigaltstack, &off, &was);
    if (was.ss_sp != region + PAGE && !(was.ss_flags & SS_DISABLE)) {
        was.ss_flags &= ~SS_ONSTACK;
        nng_sys2(SYS_sigaltstack, &was, 0); /* the program's own */
    }
    give_region(region);
}

/* Ends in a jump, so that the thread's stack begins with the program's function. */
static void *thread_begins(void *p)
{
    char *region = p;
    struct start s = *start_of(region);
    if (set_stack(region, thread_size) || set_specific(key, region)) {
        nng_health(NNG_H_NO_ALTSTACK);
        thread_ends(region);
    }
    return s.run(s.arg);
}

static void failed(int err)
{
    struct nng_proc *self = nng_self;
    if (self)
        nng_usage_fill(&self->usage);
    nng_fail(NNG_C_PTHREAD_CREATE, err, -1, 0, -1);
}

HOOK(int, pthread_create,
     (pthread_t * thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg))
{
    int saved = errno;
    if (!REAL(pthread_create)) /* an old libc without libpthread: not a program with threads */
        return EAGAIN;
    char *region = thread_size ? take_region() : 0;
    if (region)
        *start_of(region) = (struct start){run, arg};
    else if (thread_size)
        nng_health(NNG_H_NO_ALTSTACK);
    errno = saved;
    int rc = region ? NEXT(pthread_create)(thread, attr, thread_begins, region)
                    : NEXT(pthread_create)(thread, attr, run, arg);
    if (rc) {
        saved = errno;
        if (region)
            give_region(region);
        if (nng_st.on)
            failed(rc);
        errno = saved;
    }
    return rc;
}

void nng_threads_main_stack_again(void)
{
    stack_t now = {0};
    if (main_region && nng_sys2(SYS_sigaltstack, 0, &now) == 0 && now.ss_sp != main_region + PAGE &&
        now.ss_size < main_size)
        set_stack(main_region, main_size);
}

void nng_threads_init(void)
{
    if (!nng_st.python)
        return;
    size_t least = getauxval(AT_MINSIGSTKSZ), size = getauxval(AT_PAGESZ);
    if (size && !(size & (size - 1)))
        page = size;
    size_t round = (least + PAGE - 1) & ~(PAGE - 1);
    stack_t now = {0};
    if (nng_sys2(SYS_sigaltstack, 0, &now) == 0 && now.ss_flags & SS_DISABLE) {
        struct rlimit l;
        bool tight = !nng_sys4(SYS_prlimit64, 0, RLIMIT_AS, 0, &l) && l.rlim_cur < 16ull << 30;
        main_size = PAGE + round + (tight ? MAIN_ROOM_SMALL : MAIN_ROOM);
        main_region = map_region(main_size);
        if (!main_region) {
            main_size = PAGE + round + MAIN_ROOM_SMALL;
            main_region = map_region(main_size);
        }
        if (!main_region || set_stack(main_region, main_size))
            nng_health(NNG_H_NO_ALTSTACK);
    }
    if (key_create && set_specific && key_create(&key, thread_ends) == 0)
        thread_size =
            PAGE + round + THREAD_ROOM; /* a multiple of PAGE where that is at most 256 KiB */
}
