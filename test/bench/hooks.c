/* SPDX-License-Identifier: MIT
 *
 * What one call costs: hooks CASE [CALLS BATCHES] prints the nanoseconds per call of the fastest batch.
 * The driver runs it with and without the library in turn and compares. Without a second argument
 * it lists its cases, each with "recorded" or "unrecorded".
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *data_path = "bench.npy"; /* in the current folder, which the driver made */
static int null_fd, memory_fd, file_fd;
static void *volatile sink;

static void do_write_file(void)
{
    (void)!write(null_fd, "x", 1);
}
static void do_write_stderr(void)
{
    (void)!write(2, "a line of thirty-odd characters\n", 32);
}
static void do_open(void)
{
    close(open("/dev/null", O_RDONLY | O_CLOEXEC));
}
static void do_mmap_anonymous(void)
{
    void *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sink = p;
    munmap(p, 4096);
}
static void do_mmap_shared(void)
{
    void *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, memory_fd, 0);
    sink = p;
    munmap(p, 4096);
}
static void do_ftruncate(void)
{
    (void)!ftruncate(memory_fd, 4096);
}
static void do_open_data(void)
{
    close(open(data_path, O_RDONLY | O_CLOEXEC));
}
static void do_getenv(void)
{
    sink = getenv("HOME");
}
static void do_kill(void)
{
    kill(getpid(), 0);
}
static void do_waitpid(void)
{
    waitpid(-1, NULL, WNOHANG);
}
static void do_sigaction(void)
{
    struct sigaction now;
    sigaction(SIGUSR1, NULL, &now);
}
static void do_fputs(void)
{
    fputs("a line of thirty-odd characters\n", stderr);
}
static void do_getppid(void)
{
    getppid();
}

static const struct {
    const char *name, *kind;
    void (*call)(void);
} cases[] = {
    {"getppid (not hooked)", "control", do_getppid},
    {"write to a file", "unrecorded", do_write_file},
    {"open of no data file", "unrecorded", do_open},
    {"mmap anonymous", "unrecorded", do_mmap_anonymous},
    {"getenv", "unrecorded", do_getenv},
    {"waitpid, nobody", "unrecorded", do_waitpid},
    {"sigaction, SIGUSR1", "unrecorded", do_sigaction},
    {"kill, signal 0", "unrecorded", do_kill},
    {"write to stderr", "recorded", do_write_stderr},
    {"fputs to stderr", "recorded", do_fputs},
    {"mmap shared", "recorded", do_mmap_shared},
    {"ftruncate", "recorded", do_ftruncate},
    {"open of a data file", "recorded", do_open_data},
};

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    size_t n = sizeof cases / sizeof cases[0];
    if (argc < 3) {
        for (size_t i = 0; i < n; i++)
            printf("%zu\t%s\t%s\n", i, cases[i].kind, cases[i].name);
        return 0;
    }
    size_t which = (size_t)atoi(argv[1]);
    long calls = atol(argv[2]);
    int batches = argc > 3 ? atoi(argv[3]) : 1;
    if (which >= n)
        return 2;
    null_fd = open("/dev/null", O_WRONLY);
    memory_fd = memfd_create("bench", MFD_CLOEXEC);
    file_fd = open(data_path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    dup2(null_fd, 2);
    if (null_fd < 0 || memory_fd < 0 || file_fd < 0 || ftruncate(memory_fd, 4096) != 0)
        return 2;
    double best = 1e18;
    for (int b = 0; b < batches; b++) {
        double start = now_ns();
        for (long i = 0; i < calls; i++)
            cases[which].call();
        double each = (now_ns() - start) / (double)calls;
        if (each < best)
            best = each;
    }
    printf("%.2f\n", best);
    return 0;
}
