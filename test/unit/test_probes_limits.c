/* SPDX-License-Identifier: MIT */
#include "probes_root.h"

#include <sys/resource.h>

#define LIMITS                                                                                     \
    "Limit                     Soft Limit           Hard Limit           Units     \n"             \
    "Max cpu time              10                   20                   seconds   \n"             \
    "Max address space         1048576              unlimited            bytes     \n"             \
    "Max processes             500                  600                  processes \n"             \
    "Max open files            1024                 4096                 files     \n"

static void test_limits__table__by_resource_number(void **s)
{
    struct nng_usage u;
    (void)s;
    put_text("/proc/42/limits", LIMITS);
    put_text("/proc/42/status", "Name:\tx\nVmPeak:\t  300 kB\nVmSize:\t 200 kB\nVmHWM:\t 150 kB\n"
                                "VmRSS:\t 100 kB\nThreads:\t7\n");
    put_text("/proc/42/fd/0", "");
    put_text("/proc/42/fd/1", "");
    put_text("/proc/42/fd/9", "");
    nng_limits_read(42, &u);
    assert_int_equal(u.valid, 1);
    assert_int_equal(u.rlim_soft[RLIMIT_CPU], 10);
    assert_int_equal(u.rlim_hard[RLIMIT_CPU], 20);
    assert_int_equal(u.rlim_soft[RLIMIT_AS], 1048576);
    assert_true(u.rlim_hard[RLIMIT_AS] == ~0ULL);
    assert_int_equal(u.rlim_soft[RLIMIT_NOFILE], 1024);
    assert_int_equal(u.vm_size, 200 * 1024);
    assert_int_equal(u.vm_peak, 300 * 1024);
    assert_int_equal(u.vm_rss, 100 * 1024);
    assert_int_equal(u.vm_hwm, 150 * 1024);
    assert_int_equal(u.threads, 7);
    assert_int_equal(u.fds, 3);
}

static void test_limits__gone__not_valid(void **s)
{
    struct nng_usage u;
    (void)s;
    nng_limits_read(42, &u);
    assert_int_equal(u.valid, 0);
    put_text("/proc/42/limits", "Max open files            many   more\nMax open filesX 1 2\n");
    nng_limits_read(42, &u);
    assert_int_equal(u.valid, 0);
}

static void test_limits__real__as_the_kernel_says(void **s)
{
    struct nng_usage u;
    struct rlimit r;
    (void)s;
    nng_probe_root = "";
    nng_limits_read(getpid(), &u);
    assert_int_equal(u.valid, 1);
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(getrlimit((int)i, &r), 0);
        assert_true(u.rlim_soft[i] == (r.rlim_cur == RLIM_INFINITY ? ~0ULL : r.rlim_cur));
        assert_true(u.rlim_hard[i] == (r.rlim_max == RLIM_INFINITY ? ~0ULL : r.rlim_max));
    }
    assert_true(u.fds >= 3);
    assert_true(u.threads >= 1);
    assert_true(u.vm_rss > 0 && u.vm_rss <= u.vm_size);
}

static void status(int pid, int uid, const char *cap, int threads)
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    snprintf(text, sizeof text, "Name:\tx\nUid:\t%d\t%d\t%d\t%d\nThreads:\t%d\nCapEff:\t%s\n", uid,
             uid, uid, uid, threads, cap);
    put_text(path, text);
}

static void test_pidscope__ordinary_user__tasks_and_limit(void **s)
{
    struct nng_pidscope p;
    (void)s;
    put_text("/proc/42/limits", LIMITS);
    put_text("/proc/42/uid_map", "         0          0 4294967295\n");
    put_text("/proc/sys/kernel/threads-max", "1234\n");
    status(42, 1000, "0000000000000000", 7);
    status(43, 1000, "0000000000000000", 5);
    status(44, 1001, "0000000000000000", 9);
    nng_pidscope_read(42, NULL, -1, &p);
    assert_int_equal(p.nproc_soft, 500);
    assert_int_equal(p.user_tasks, 12);
    assert_false(p.privileged);
    assert_int_equal(p.threads_max, 1234);
    assert_int_equal(p.max, -1);
    assert_int_equal(p.max_events, -1);
}

static void test_pidscope__who_is_exempt(void **s)
{
    struct nng_pidscope p;
    (void)s;
    put_text("/proc/42/limits", LIMITS);
    put_text("/proc/42/uid_map", "         0          0 4294967295\n");
    status(42, 0, "0000000000000000", 1);
    nng_pidscope_read(42, NULL, -1, &p);
    assert_true(p.privileged);
    status(42, 1000, "0000000001000000", 1); /* CAP_SYS_RESOURCE */
    nng_pidscope_read(42, NULL, -1, &p);
    assert_true(p.privileged);
    put_text("/proc/42/uid_map", "         0       1000          1\n"); /* root of a namespace */
    status(42, 0, "000001ffffffffff", 1);
    nng_pidscope_read(42, NULL, -1, &p);
    assert_false(p.privileged);
}

static void test_pidscope__events_rose__counted_from_what_was_before(void **s)
{
    struct nng_cgroup cg = {.pids_version = 2, .pids = "/p", .pids_top = "/p"};
    struct nng_pidscope p;
    (void)s;
    put_text("/p/pids.max", "20\n");
    put_text("/p/pids.current", "20\n");
    put_text("/p/pids.events", "max 3\n");
    nng_pidscope_read(42, &cg, 3, &p);
    assert_int_equal(p.max, 20);
    assert_int_equal(p.current, 20);
    assert_int_equal(p.max_events, 0);
    assert_int_equal(p.nproc_soft, -2);
    assert_int_equal(p.user_tasks, -1);
    put_text("/p/pids.events", "max 8\n");
    nng_pidscope_read(42, &cg, 3, &p);
    assert_int_equal(p.max_events, 5);
    assert_string_equal(p.path, "/p");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROOTED(test_limits__table__by_resource_number),
        ROOTED(test_limits__gone__not_valid),
        ROOTED(test_limits__real__as_the_kernel_says),
        ROOTED(test_pidscope__ordinary_user__tasks_and_limit),
        ROOTED(test_pidscope__who_is_exempt),
        ROOTED(test_pidscope__events_rose__counted_from_what_was_before),
    };
    return cmocka_run_group_tests_name("probes: limits", tests, NULL, NULL);
}
