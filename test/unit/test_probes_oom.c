/* SPDX-License-Identifier: MIT
 *
 * The log is a plain file here: opened at its end, one record appended and polled at a time, as the
 * device gives one record a read. Stamps are taken now, so that they fall into the window.
 */
#include "probes_root.h"

#include "probes/read.h"

#include <time.h>

#define SECOND 1000000000ULL
#define KILL_TAIL                                                                                  \
    " total-vm:2048kB, anon-rss:1024kB, file-rss:512kB, shmem-rss:256kB, UID:0 pgtables:48kB "     \
    "oom_score_adj:0"

static void append(struct nng_kmsg_reader *k, int prio, uint64_t ago_ns, const char *text)
{
    char line[1024];
    uint64_t usec = (nng_probes_clock(CLOCK_MONOTONIC) - ago_ns) / 1000;
    int fd = open(root_full("/dev/kmsg"), O_WRONLY | O_APPEND);
    int n = snprintf(line, sizeof line, "%d,77,%llu,-;%s\n SUBSYSTEM=x\n", prio,
                     (unsigned long long)usec, text);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, line, (size_t)n), n);
    close(fd);
    nng_kmsg_poll(k);
}

static struct nng_kmsg_reader *opened(bool initial)
{
    put_text("/dev/kmsg",
             "6,1,1,-;Memory cgroup out of memory: Killed process 9 (old)" KILL_TAIL "\n");
    if (initial)
        put_link("/proc/self/ns/pid", "/proc/self/ns/pid");
    struct nng_kmsg_reader *k = nng_kmsg_open();
    assert_non_null(k);
    return k;
}

static bool initial_here(void)
{
    struct stat st;
    return stat("/proc/self/ns/pid", &st) == 0 && st.st_ino == 4026531836UL;
}

static void match(struct nng_kmsg_reader *k, int pid, const char *comm, int64_t rss,
                  struct nng_kmsg *out)
{
    uint64_t now = nng_probes_clock(CLOCK_BOOTTIME);
    nng_kmsg_match(k, pid, comm, rss, now - 10 * SECOND, now + SECOND, out);
}

static void test_open__no_log__null(void **s)
{
    struct nng_kmsg out;
    (void)s;
    assert_null(nng_kmsg_open());
    nng_kmsg_match(NULL, 1, "x", -1, 0, 1, &out);
    assert_false(out.readable);
    assert_false(out.found);
}

static void test_match__memcg_kill_by_pid__found_with_its_memory(void **s)
{
    struct nng_kmsg out;
    (void)s;
    if (!initial_here())
        skip();
    struct nng_kmsg_reader *k = opened(true);
    append(k, 6, 0,
           "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
           "oom_memcg=/t,task_memcg=/t,task=python3,pid=123,uid=0");
    append(k, 3, 0, "Memory cgroup out of memory: Killed process 123 (python3)" KILL_TAIL);
    match(k, 123, "python3", 1 << 20, &out);
    assert_true(out.readable && out.found && out.by_pid);
    assert_false(out.global);
    assert_false(out.others);
    assert_int_equal(out.anon_rss, 1024 * 1024);
    assert_non_null(strstr(out.line, "Killed process 123 (python3)"));
    match(k, 124, "python3", 1 << 20, &out); /* same name, other pid: not this one */
    assert_false(out.found);
    assert_true(out.others);
    nng_kmsg_close(k);
}

static void test_match__global_kill__said(void **s)
{
    struct nng_kmsg out;
    (void)s;
    struct nng_kmsg_reader *k = opened(false);
    append(k, 3, 0, "Out of memory: Killed process 123 (python3)" KILL_TAIL);
    match(k, 5, "python3", -1, &out);
    assert_true(out.found && out.global);
    assert_false(out.by_pid);
    nng_kmsg_close(k);
}

static void test_match__container__by_name_and_memory_once(void **s)
{
    struct nng_kmsg out;
    (void)s;
    struct nng_kmsg_reader *k = opened(false);
    append(k, 3, 0, "Memory cgroup out of memory: Killed process 4711 (python3)" KILL_TAIL);
    match(k, 5, "bash", -1, &out);
    assert_false(out.found);
    assert_true(out.others);
    match(k, 5, "python3", 100 << 20, &out); /* it held far more than the kernel says */
    assert_false(out.found);
    match(k, 5, "python3", 1 << 20, &out);
    assert_true(out.found);
    assert_false(out.by_pid);
    match(k, 6, "python3", 1 << 20, &out); /* one line, one death */
    assert_false(out.found);
    match(k, 5, "python3", 1 << 20, &out);
    assert_true(out.found);
    nng_kmsg_close(k);
}

static void test_match__older_than_the_window__no(void **s)
{
    struct nng_kmsg out;
    (void)s;
    struct nng_kmsg_reader *k = opened(false);
    uint64_t now = nng_probes_clock(CLOCK_BOOTTIME);
    append(k, 3, 0, "Memory cgroup out of memory: Killed process 4711 (python3)" KILL_TAIL);
    nng_kmsg_match(k, 5, "python3", -1, now + 300 * SECOND, now + 400 * SECOND, &out);
    assert_false(out.found);
    assert_false(out.others);
    nng_kmsg_match(k, 5, "python3", -1, now > 500 * SECOND ? now - 500 * SECOND : 0,
                   now > 400 * SECOND ? now - 400 * SECOND : 0, &out);
    assert_false(out.found);
    nng_kmsg_close(k);
}

static void test_poll__before_open_is_not_seen(void **s)
{
    struct nng_kmsg out;
    (void)s;
    struct nng_kmsg_reader *k = opened(false);
    nng_kmsg_poll(k);
    match(k, 9, "old", -1, &out);
    assert_false(out.found || out.others);
    nng_kmsg_close(k);
}

static void test_poll__written_by_a_program__not_believed(void **s)
{
    struct nng_kmsg out;
    (void)s;
    struct nng_kmsg_reader *k = opened(false);
    append(k, 8 + 3, 0, "Memory cgroup out of memory: Killed process 4711 (python3)" KILL_TAIL);
    append(k, 3, 0, "foo[1]: Out of memory: Killed process 4711 (python3)" KILL_TAIL);
    append(k, 3, 0, "Killed process 4711 (python3)" KILL_TAIL); /* nothing announced it */
    match(k, 5, "python3", -1, &out);
    assert_false(out.found || out.others);
    nng_kmsg_close(k);
}

static void test_poll__old_kernel__two_lines(void **s)
{
    struct nng_kmsg out;
    (void)s;
    struct nng_kmsg_reader *k = opened(false);
    append(k, 3, 0, "Out of memory: Kill process 4711 (python3) score 900 or sacrifice child");
    append(k, 3, 0, "Killed process 4711 (python3) total-vm:4kB, anon-rss:8kB, file-rss:0kB");
    match(k, 5, "python3", -1, &out);
    assert_true(out.found && out.global);
    assert_int_equal(out.anon_rss, 8192);
    append(k, 3, 0,
           "Memory cgroup out of memory: Kill process 4712 (sh) score 1 or sacrifice child");
    append(k, 3, 0, "Killed process 4712 (sh) total-vm:4kB, anon-rss:8kB, file-rss:0kB");
    match(k, 6, "sh", -1, &out);
    assert_true(out.found);
    assert_false(out.global);
    nng_kmsg_close(k);
}

static void test_poll__hostile_names__cut_where_they_end(void **s)
{
    struct nng_kmsg out;
    (void)s;
    struct nng_kmsg_reader *k = opened(false);
    append(k, 3, 0, "Memory cgroup out of memory: Killed process 7 (a) total-vm:9k)" KILL_TAIL);
    match(k, 5, "a) total-vm:9k", -1, &out);
    assert_true(out.found);
    assert_int_equal(out.anon_rss, 1 << 20);
    append(k, 3, 0, "Memory cgroup out of memory: Killed process 8 (x\\x0ay)" KILL_TAIL);
    match(k, 6, "x\ny", -1, &out);
    assert_true(out.found);
    assert_null(strchr(out.line, '\n'));
    append(k, 3, 0, "Memory cgroup out of memory: Killed process -3 (x)" KILL_TAIL);
    append(k, 3, 0, "Memory cgroup out of memory: Killed process 99999999999999999999 (x");
    append(k, 3, 0, "oom-kill:constraint=");
    append(k, 3, 0, "Memory cgroup out of memory: Killed process ");
    match(k, 7, "x", -1, &out);
    assert_false(out.found);
    nng_kmsg_close(k);
}

static void test_poll__garbage_records__ignored(void **s)
{
    static const char *const bad[] = {"no semicolon", ";", "x,y,z;text", "6,1", "3,1,"};
    struct nng_kmsg out;
    (void)s;
    struct nng_kmsg_reader *k = opened(false);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int fd = open(root_full("/dev/kmsg"), O_WRONLY | O_APPEND);
        assert_true(write(fd, bad[i], strlen(bad[i])) > 0);
        close(fd);
        nng_kmsg_poll(k);
    }
    match(k, 1, "x", -1, &out);
    assert_false(out.found || out.others);
    nng_kmsg_close(k);
}

static void test_poll__more_kills_than_kept__newest_stay(void **s)
{
    struct nng_kmsg out;
    char line[256];
    (void)s;
    struct nng_kmsg_reader *k = opened(false);
    for (int i = 0; i < 200; i++) {
        snprintf(line, sizeof line,
                 "Memory cgroup out of memory: Killed process %d (w%d)" KILL_TAIL, 1000 + i, i);
        append(k, 3, 0, line);
    }
    match(k, 1, "w199", -1, &out);
    assert_true(out.found);
    match(k, 1, "w0", -1, &out);
    assert_false(out.found);
    nng_kmsg_close(k);
}

static void test_host__counters(void **s)
{
    struct nng_hostmem h;
    (void)s;
    assert_int_equal(nng_vmstat_oom_kill(), -1);
    put_text("/proc/vmstat", "nr_free_pages 1\noom_kill_x 9\noom_kill 3\n");
    assert_int_equal(nng_vmstat_oom_kill(), 3);
    put_text("/proc/meminfo", "MemTotal:       1000 kB\nMemFree: 5 kB\nMemAvailable:    400 kB\n"
                              "SwapTotal: 0 kB\nSwapFree: 0 kB\nCommitLimit: 7 kB\n"
                              "Committed_AS: 8 kB\n");
    put_text("/proc/sys/vm/overcommit_memory", "2\n");
    nng_hostmem_read(&h);
    assert_int_equal(h.total, 1024000);
    assert_int_equal(h.available, 409600);
    assert_int_equal(h.swap_total, 0);
    assert_int_equal(h.commit_limit, 7168);
    assert_int_equal(h.committed, 8192);
    assert_int_equal(h.overcommit, 2);
    assert_int_equal(h.vmstat_kills, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROOTED(test_open__no_log__null),
        ROOTED(test_match__memcg_kill_by_pid__found_with_its_memory),
        ROOTED(test_match__global_kill__said),
        ROOTED(test_match__container__by_name_and_memory_once),
        ROOTED(test_match__older_than_the_window__no),
        ROOTED(test_poll__before_open_is_not_seen),
        ROOTED(test_poll__written_by_a_program__not_believed),
        ROOTED(test_poll__old_kernel__two_lines),
        ROOTED(test_poll__hostile_names__cut_where_they_end),
        ROOTED(test_poll__garbage_records__ignored),
        ROOTED(test_poll__more_kills_than_kept__newest_stay),
        ROOTED(test_host__counters),
    };
    return cmocka_run_group_tests_name("probes: oom", tests, NULL, NULL);
}
