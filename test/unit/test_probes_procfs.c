/* SPDX-License-Identifier: MIT */
#include "probes_root.h"

#include "probes/read.h"

#include <sys/wait.h>
#include <time.h>

static void stat_file(int pid, const char *comm, const char *state, int code)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    snprintf(text, sizeof text,
             "%d (%s) %s 7 8 9 34816 9 4194304 1 0 0 0 150 50 0 0 20 0 3 0 123456 1000 200 "
             "18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 %d\n",
             pid, comm, state, code);
    put_text(path, text);
}

static void test_stat__plain__all_fields(void **s)
{
    struct nng_pstat st;
    (void)s;
    stat_file(42, "python3", "S", 0);
    assert_int_equal(nng_proc_stat(42, &st), 0);
    assert_int_equal(st.pid, 42);
    assert_int_equal(st.ppid, 7);
    assert_int_equal(st.pgrp, 8);
    assert_int_equal(st.session, 9);
    assert_int_equal(st.state, 'S');
    assert_string_equal(st.comm, "python3");
    assert_int_equal(st.start_ticks, 123456);
    assert_int_equal(st.threads, 3);
    assert_int_equal(st.utime_ns, 1500000000);
    assert_int_equal(st.stime_ns, 500000000);
}

static void test_stat__name_with_parentheses_and_newline__fields_are_right(void **s)
{
    struct nng_pstat st;
    (void)s;
    stat_file(42, "a) R 1 (\nb) Z", "D", 0);
    assert_int_equal(nng_proc_stat(42, &st), 0);
    assert_int_equal(st.state, 'D');
    assert_int_equal(st.ppid, 7);
    assert_string_equal(st.comm, "a) R 1 (\nb) Z");
}

static void test_stat__zombie__wait_status(void **s)
{
    struct nng_pstat st;
    (void)s;
    stat_file(42, "python3", "Z", 7);
    assert_int_equal(nng_proc_stat(42, &st), 0);
    assert_int_equal(st.state, 'Z');
    assert_int_equal(st.exit_code, 7);
    assert_true(st.exit_code_readable);
}

static void test_stat__gone_and_garbage__errors(void **s)
{
    struct nng_pstat st;
    static const char *const bad[] = {"",        "42",         "42 (",          "42 (x)",
                                      "42 (x) ", "42 )x( S 1", "42 (x) S 1 2 3"};
    (void)s;
    assert_int_equal(nng_proc_stat(42, &st), -ESRCH);
    assert_int_equal(nng_proc_stat(0, &st), -ESRCH);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        put_text("/proc/42/stat", bad[i]);
        assert_int_equal(nng_proc_stat(42, &st), -EINVAL);
    }
}

static void test_stat__real_zombie__status_of_its_signal(void **s)
{
    struct nng_pstat st;
    siginfo_t si;
    (void)s;
    nng_probe_root = "";
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        kill(getpid(), SIGKILL);
        _exit(1);
    }
    assert_int_equal(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT), 0);
    assert_int_equal(nng_proc_stat(pid, &st), 0);
    assert_int_equal(st.state, 'Z');
    assert_true(st.exit_code_readable);
    assert_int_equal(st.exit_code, 9);
    waitpid(pid, NULL, 0);
    assert_int_equal(nng_proc_stat(pid, &st), -ESRCH);
}

static void test_rss__statm__pages_times_size(void **s)
{
    (void)s;
    put_text("/proc/42/statm", "1000 25 3 1 0 4 0\n");
    assert_int_equal(nng_proc_rss(42), 25 * sysconf(_SC_PAGESIZE));
    assert_int_equal(nng_proc_rss(43), -1);
    put_text("/proc/42/statm", "1000");
    assert_int_equal(nng_proc_rss(42), -1);
}

static void cmdline(const char *args, size_t n, const char *expect)
{
    char out[256];
    put_bytes("/proc/42/cmdline", args, n);
    nng_proc_cmdline(42, out, sizeof out);
    assert_string_equal(out, expect);
}
#define CMDLINE(args, expect) cmdline(args, sizeof(args), expect)

static void test_cmdline__secrets__replaced(void **s)
{
    (void)s;
    CMDLINE("python\0train.py\0--lr\0001e-3", "python train.py --lr 1e-3");
    CMDLINE("p\0--api-key=abc\0x", "p --api-key=*** x");
    CMDLINE("p\0--api-key\0abc\0x", "p --api-key *** x");
    CMDLINE("p\0--hf-token\0abc", "p --hf-token ***");
    CMDLINE("p\0--PASSWORD\0-abc", "p --PASSWORD ***");
    CMDLINE("p\0--token\0--other\0v", "p --token --other v");
    CMDLINE("p\0wandb.api_key=abc", "p wandb.api_key=***");
    CMDLINE("p\0--url\0https://me:pw@h/x", "p --url https://me:***@h/x");
    CMDLINE("p\0--tokenizer\0bert", "p --tokenizer bert");
    CMDLINE("p\0--password", "p --password");
}

static void test_cmdline__control_characters__cleaned(void **s)
{
    char out[64];
    (void)s;
    put_bytes("/proc/42/cmdline", "a\x1b[31m\0b\nc", 10);
    nng_proc_cmdline(42, out, sizeof out);
    assert_null(strchr(out, 0x1b));
    assert_null(strchr(out, '\n'));
    nng_proc_cmdline(43, out, sizeof out);
    assert_string_equal(out, "");
}

static void test_cmdline__larger_than_any_buffer__cut(void **s)
{
    char big[20000], out[64];
    (void)s;
    memset(big, 'x', sizeof big);
    put_bytes("/proc/42/cmdline", big, sizeof big);
    nng_proc_cmdline(42, out, sizeof out);
    assert_true(strlen(out) < sizeof out);
}

static void test_name__newline_at_end__taken_off(void **s)
{
    char out[32];
    (void)s;
    put_text("/proc/42/comm", "pt_data_worker\n");
    nng_proc_name(42, out, sizeof out);
    assert_string_equal(out, "pt_data_worker");
}

static void test_children__lists_of_all_threads__added_up(void **s)
{
    int kids[8];
    (void)s;
    put_text("/proc/42/task/42/children", "50 51 ");
    put_text("/proc/42/task/43/children", "52 ");
    assert_int_equal(nng_proc_children(42, kids, 8), 3);
    assert_int_equal(kids[0] + kids[1] + kids[2], 153);
    assert_int_equal(nng_proc_children(42, kids, 2), 2);
}

static void test_children__kernel_without_lists__scan(void **s)
{
    int kids[8];
    (void)s;
    put_text("/proc/7/task/7/comm", "x");
    stat_file(42, "a", "S", 0); /* ppid 7 */
    stat_file(43, "b", "S", 0);
    assert_int_equal(nng_proc_children(7, kids, 8), 2);
    assert_int_equal(nng_proc_children(8, kids, 8), 0);
}

static void test_lines__too_long_line__dropped_whole(void **s)
{
    static char text[30000];
    struct nng_probes_lines l;
    (void)s;
    memset(text, 'x', sizeof text);
    memcpy(text, "first\n", 6);
    memcpy(text + 20000, "\nthird\nlast", 11);
    text[20011] = '\0';
    put_text("/f", text);
    assert_int_equal(nng_probes_lines_open(&l, "/f", 1 << 20), 0);
    assert_string_equal(nng_probes_lines_next(&l), "first");
    assert_string_equal(nng_probes_lines_next(&l), "third");
    assert_string_equal(nng_probes_lines_next(&l), "last");
    assert_null(nng_probes_lines_next(&l));
    assert_null(nng_probes_lines_next(&l));
    nng_probes_lines_close(&l);
}

static void test_lines__budget__ends_the_reading(void **s)
{
    struct nng_probes_lines l;
    int n = 0;
    (void)s;
    put_text("/f", "1\n2\n3\n4\n5\n6\n");
    assert_int_equal(nng_probes_lines_open(&l, "/f", 6), 0);
    while (nng_probes_lines_next(&l))
        n++;
    assert_int_equal(n, 3);
    nng_probes_lines_close(&l);
}

static void test_slurp__fifo__does_not_wait(void **s)
{
    char buf[16];
    (void)s;
    assert_int_equal(mkfifo(root_full("/fifo"), 0600), 0);
    assert_true(nng_probes_slurp("/fifo", buf, sizeof buf) <= 0);
}

static void test_number__forms(void **s)
{
    (void)s;
    put_text("/n", "max\n");
    assert_int_equal(nng_probes_number("/n", -1), -1);
    assert_int_equal(nng_probes_number("/n", 7), 7);
    put_text("/n", "12345\n");
    assert_int_equal(nng_probes_number("/n", -1), 12345);
    put_text("/n", "99999999999999999999999\n");
    assert_int_equal(nng_probes_number("/n", -1), INT64_MAX);
    put_text("/n", "\n");
    assert_int_equal(nng_probes_number("/n", 7), -1);
    assert_int_equal(nng_probes_keyed("oom 3\noom_kill 4\n", "oom_kill"), 4);
    assert_int_equal(nng_probes_keyed("oom_kill 4\noom 3\n", "oom"), 3);
    assert_int_equal(nng_probes_keyed("x_oom 4\n", "oom"), -1);
}

static void test_pidfd__child_reaped__status_where_the_kernel_can(void **s)
{
    int status = 0;
    (void)s;
    nng_probe_root = "";
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(5);
    int fd = nng_pidfd_open(pid);
    waitpid(pid, NULL, 0);
    if (fd < 0)
        skip();
    int r = nng_pidfd_status(fd, &status);
    if (r > 0)
        assert_int_equal(status, 5 << 8);
    else
        assert_true(r == 0 || r == -ENOTTY || r == -EINVAL || r == -ESRCH);
    close(fd);
    assert_true(nng_pidfd_open(-1) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROOTED(test_stat__plain__all_fields),
        ROOTED(test_stat__name_with_parentheses_and_newline__fields_are_right),
        ROOTED(test_stat__zombie__wait_status),
        ROOTED(test_stat__gone_and_garbage__errors),
        ROOTED(test_stat__real_zombie__status_of_its_signal),
        ROOTED(test_rss__statm__pages_times_size),
        ROOTED(test_cmdline__secrets__replaced),
        ROOTED(test_cmdline__control_characters__cleaned),
        ROOTED(test_cmdline__larger_than_any_buffer__cut),
        ROOTED(test_name__newline_at_end__taken_off),
        ROOTED(test_children__lists_of_all_threads__added_up),
        ROOTED(test_children__kernel_without_lists__scan),
        ROOTED(test_lines__too_long_line__dropped_whole),
        ROOTED(test_lines__budget__ends_the_reading),
        ROOTED(test_slurp__fifo__does_not_wait),
        ROOTED(test_number__forms),
        ROOTED(test_pidfd__child_reaped__status_where_the_kernel_can),
    };
    return cmocka_run_group_tests_name("probes: procfs", tests, NULL, NULL);
}
