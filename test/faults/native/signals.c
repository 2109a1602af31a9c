/* SPDX-License-Identifier: MIT
 *
 * Programs' own signal handlers, for the transparency tests: they print what they were given, repair,
 * reset, raise again or jump away. Loaded by ctypes. Plain write(2), since these are handlers.
 */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char *page;
static volatile int strikes;
static sigjmp_buf back;

static void say(const char *what, int sig, siginfo_t *si)
{
    char line[200];
    sigset_t mask;
    sigprocmask(SIG_SETMASK, 0, &mask);
    int n =
        snprintf(line, sizeof line,
                 "%s signo=%d si_signo=%d code=%d addr_is_page=%d pid_is_self=%d self_blocked=%d "
                 "usr1_blocked=%d term_blocked=%d\n",
                 what, sig, si->si_signo, si->si_code, si->si_code > 0 && si->si_addr == page,
                 si->si_code <= 0 && si->si_pid == getpid(), sigismember(&mask, sig),
                 sigismember(&mask, SIGUSR1), sigismember(&mask, SIGTERM));
    if (write(1, line, (size_t)n) < 0)
        _exit(99);
}

static void on_exit_3(int sig, siginfo_t *si, void *uc)
{
    (void)uc;
    say("handler", sig, si);
    _exit(3);
}

static void on_repair(int sig, siginfo_t *si, void *uc)
{
    (void)uc;
    if (strikes++ < 2)
        say("repair", sig, si);
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
}

static void on_return(int sig, siginfo_t *si, void *uc)
{
    (void)uc;
    strikes++;
    say("return", sig, si);
}

/* torch's DataLoader does this */
static void on_default_and_raise(int sig, siginfo_t *si, void *uc)
{
    (void)uc;
    say("again", sig, si);
    signal(sig, SIG_DFL);
    raise(sig);
}

static void on_jump(int sig, siginfo_t *si, void *uc)
{
    (void)uc;
    if (strikes++ < 2)
        say("jump", sig, si);
    siglongjmp(back, 1);
}

static void on_abort(int sig, siginfo_t *si, void *uc)
{
    (void)uc;
    say("abort", sig, si);
    abort();
}

static void on_fault_again(int sig, siginfo_t *si, void *uc)
{
    (void)uc;
    say("fault", sig, si);
    *(volatile char *)page = 1;
}

static void set(int sig, void (*fn)(int, siginfo_t *, void *), int flags)
{
    struct sigaction act;
    memset(&act, 0, sizeof act);
    act.sa_sigaction = fn;
    act.sa_flags = SA_SIGINFO | flags;
    sigaddset(&act.sa_mask, SIGUSR1);
    if (sigaction(sig, &act, 0))
        _exit(98);
}

static void make_page(void)
{
    page = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

int sig_touch(void)
{
    *(volatile char *)page = 1;
    return 0;
}

int sig_exit_handler(int sig)
{
    make_page();
    set(sig, on_exit_3, SA_ONSTACK);
    return 0;
}

int sig_repair(int times)
{
    make_page();
    set(SIGSEGV, on_repair, 0);
    for (int i = 0; i < times; i++) {
        mprotect(page, 4096, PROT_NONE);
        *(volatile char *)page = (char)i;
    }
    return strikes;
}

int sig_default_and_raise(int sig)
{
    make_page();
    set(sig, on_default_and_raise, SA_RESTART | SA_NODEFER);
    return 0;
}

int sig_resethand(int sig)
{
    make_page();
    set(sig, on_return, (int)SA_RESETHAND);
    return 0;
}

static int speaks;

__attribute__((destructor)) static void at_the_very_end(void)
{
    if (speaks)
        fputs("the last words of a library\n", stderr);
}

int sig_speak_at_the_end(void)
{
    return speaks = 1;
}

int sig_return(int sig)
{
    make_page();
    set(sig, on_return, 0);
    return 0;
}

int sig_abort_in_handler(void)
{
    make_page();
    set(SIGSEGV, on_abort, 0);
    return 0;
}

int sig_fault_in_handler(void)
{
    make_page();
    set(SIGSEGV, on_fault_again, 0);
    return 0;
}

int sig_jump(int times)
{
    make_page();
    set(SIGSEGV, on_jump, SA_NODEFER);
    for (volatile int i = 0; i < times; i++)
        if (!sigsetjmp(back, 1))
            *(volatile char *)page = 1;
    return strikes;
}

static void *jumps_once(void *arg)
{
    (void)arg;
    if (!sigsetjmp(back, 1))
        *(volatile char *)page = 1;
    return 0;
}

/* One thread leaves its handler by longjmp and lives on; another faults: seconds until it went on. */
int sig_jump_elsewhere(void)
{
    struct timespec a, b;
    pthread_t t;
    make_page();
    set(SIGSEGV, on_jump, SA_NODEFER);
    pthread_create(&t, 0, jumps_once, 0);
    pthread_join(t, 0);
    clock_gettime(CLOCK_MONOTONIC, &a);
    jumps_once(0);
    clock_gettime(CLOCK_MONOTONIC, &b);
    return (int)((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000) / 1000;
}

static void *touch_blocked(void *arg)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, 0);
    *(volatile char *)page = 1;
    return arg;
}

int sig_blocked_thread(void)
{
    pthread_t t;
    make_page();
    pthread_create(&t, 0, touch_blocked, 0);
    pthread_join(t, 0);
    return 0;
}

static int dive(int n)
{
    volatile char room[700];
    room[n % 700] = (char)n;
    return dive(n + 1) + room[(n + 1) % 700];
}

static void *dive_thread(void *arg)
{
    return (void *)(long)dive((int)(long)arg);
}

int sig_overflow_main(void)
{
    return dive(0);
}

int sig_overflow_thread(void)
{
    pthread_t t;
    pthread_create(&t, 0, dive_thread, 0);
    pthread_join(t, 0);
    return 0;
}

static void *null_thread(void *arg)
{
    *(volatile char *)arg = 1;
    return arg;
}

int sig_crash_in_thread(void)
{
    pthread_t t;
    return pthread_create(&t, 0, null_thread, 0);
}

/* The status of a vfork child that crashes in its parent's memory. */
int sig_vfork_crash(void)
{
    int status = -1;
    pid_t p = vfork();
    if (!p) {
        *(volatile char *)page = 1;
        _exit(1);
    }
    waitpid(p, &status, 0);
    return status;
}

int sig_vfork_term(void)
{
    int status = -1;
    pid_t p = vfork();
    if (!p) {
        kill(getpid(), SIGTERM);
        _exit(1);
    }
    waitpid(p, &status, 0);
    return status;
}

/* Shared memory as torch 2.9 and older has it: mapped, closed, unlinked, too large. */
int sig_fill_shm(const char *name, long size)
{
    int fd = shm_open(name, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, size))
        return -1;
    char *m = mmap(0, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    shm_unlink(name);
    memset(m, 1, (size_t)size);
    return 0;
}

/* Everything at once: threads that fault and are repaired, threads that set the handler again, a thread
 * that forks. Returns how many went wrong. */
static volatile int hammering;
static _Atomic int wrong;

static void on_repair_anywhere(int sig, siginfo_t *si, void *uc)
{
    (void)uc;
    long at = (long)si->si_addr & ~4095L;
    wrong += sig != SIGSEGV || si->si_code != SEGV_ACCERR ||
             mprotect((void *)at, 4096, PROT_READ | PROT_WRITE);
}

static void *faults_and_faults(void *arg)
{
    char *mine = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; hammering; i++) {
        mprotect(mine, 4096, PROT_NONE);
        *(volatile char *)mine = (char)i;
        wrong += *mine != (char)i;
    }
    return arg;
}

static void *sets_and_sets(void *arg)
{
    while (hammering) {
        struct sigaction old;
        sigaction(SIGSEGV, 0, &old);
        wrong += old.sa_sigaction != on_repair_anywhere;
        sigaction(SIGSEGV, &old, 0);
    }
    return arg;
}

static void *forks_and_forks(void *arg)
{
    while (hammering) {
        int status = -1;
        pid_t p = fork();
        if (!p) {
            struct sigaction old;
            sigaction(SIGSEGV, 0, &old);
            hammering = 0;
            char *mine = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            *(volatile char *)mine = 1;
            _exit(old.sa_sigaction == on_repair_anywhere ? 5 : 6);
        }
        wrong += p < 0 || waitpid(p, &status, 0) != p || status != 5 << 8;
    }
    return arg;
}

int sig_hammer(int ms)
{
    pthread_t t[7];
    void *(*const what[])(void *) = {faults_and_faults, faults_and_faults, sets_and_sets,
                                     sets_and_sets,     forks_and_forks,   faults_and_faults,
                                     forks_and_forks};
    struct sigaction act;
    memset(&act, 0, sizeof act);
    act.sa_sigaction = on_repair_anywhere;
    act.sa_flags = SA_SIGINFO | SA_RESTART;
    sigaction(SIGSEGV, &act, 0);
    hammering = 1;
    for (int i = 0; i < 7; i++)
        pthread_create(&t[i], 0, what[i], 0);
    usleep((useconds_t)ms * 1000);
    hammering = 0;
    for (int i = 0; i < 7; i++)
        pthread_join(t[i], 0);
    return wrong;
}

static pthread_barrier_t together;

static void *touch_together(void *arg)
{
    pthread_barrier_wait(&together);
    *(volatile char *)page = 1;
    return arg;
}

int sig_two_threads(int n)
{
    pthread_t t[16];
    make_page();
    pthread_barrier_init(&together, 0, (unsigned)n);
    for (int i = 0; i < n && i < 16; i++)
        pthread_create(&t[i], 0, touch_together, 0);
    for (int i = 0; i < n && i < 16; i++)
        pthread_join(t[i], 0);
    return 0;
}

int sig_file_limit(const char *path)
{
    struct rlimit limit = {4096, 4096};
    char block[8192] = {0};
    FILE *f = fopen(path, "w");
    setrlimit(RLIMIT_FSIZE, &limit);
    for (int i = 0; f && i < 4; i++)
        fwrite(block, 1, sizeof block, f), fflush(f);
    return 7;
}

int sig_trap(void)
{
#ifdef __x86_64__
    __asm__ volatile("int3");
#else
    raise(SIGTRAP);
#endif
    return 0;
}

int sig_misaligned(void)
{
#ifdef __x86_64__
    static char room[16];
    __asm__ volatile("pushf\n orl $0x40000, (%rsp)\n popf");
    *(volatile int *)(room + 1) = 1;
#endif
    raise(SIGBUS);
    return 0;
}

int sig_ill(void)
{
    __builtin_trap();
}

int sig_fpe(volatile int zero)
{
    volatile int one = 7, result = one / zero;
    return result;
}

static void *exits(void *arg)
{
    pthread_exit(arg);
}

static void *is_cancelled(void *arg)
{
    for (;;)
        pause();
    return arg;
}

static void *sets_own_stack(void *arg)
{
    stack_t own = {.ss_size = 65536}, now;
    own.ss_sp = malloc(own.ss_size);
    sigaltstack(&own, 0);
    sigaltstack(0, &now);
    void *ok = now.ss_sp == own.ss_sp ? arg : 0;
    own.ss_flags = SS_DISABLE;
    sigaltstack(&own, 0);
    free(own.ss_sp);
    return ok;
}

/* How many of n threads gave back what they should. */
int sig_threads_of_every_kind(int n)
{
    void *(*const kinds[])(void *) = {exits, is_cancelled, sets_own_stack};
    int good = 0;
    for (int i = 0; i < n; i++) {
        pthread_t t;
        void *got = 0, *const token = &good;
        pthread_create(&t, 0, kinds[i % 3], token);
        if (i % 3 == 1)
            pthread_cancel(t);
        pthread_join(t, &got);
        good += got == (i % 3 == 1 ? PTHREAD_CANCELED : token);
    }
    return good;
}

/* Microseconds a thread: created and joined n times. */
double sig_thread_cost(int n)
{
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < n; i++) {
        pthread_t t;
        pthread_create(&t, 0, (void *(*)(void *))(void *)getpid, 0);
        pthread_join(t, 0);
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    return ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / n / 1e3;
}
