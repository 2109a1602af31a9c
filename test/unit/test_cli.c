/* SPDX-License-Identifier: MIT
 *
 * nnguard report on folders of every kind, each call in a process of its own: what it shows, its exit
 * status, and that what goes wrong is said in one line.
 */
#include "report_sample.h"

#include "journal_sample.h"
#include "shim/cli/cli.h"
#include <jansson.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char base[64];
static char shown[400000], said[20000];

static int make_base(void **state)
{
    sample_run(state);
    strcpy(base, "/tmp/nng-unit-XXXXXX");
    assert_non_null(mkdtemp(base));
    setenv("NNGUARD_DIR", base, 1);
    setenv("NNGUARD_LANG", "en", 1);
    setenv("LANG", "C.UTF-8", 1);
    return 0;
}

static int drop_base(void **state)
{
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", base);
    return system(command);
}

static void redirect(int fd, const char *name)
{
    char path[100];
    snprintf(path, sizeof path, "%s/%s", base, name);
    int to = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(to, fd);
    close(to);
}

static void slurp(char *out, size_t n, const char *name)
{
    char path[100];
    snprintf(path, sizeof path, "%s/%s", base, name);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    out[fread(out, 1, n - 1, f)] = 0;
    fclose(f);
}

typedef int command_fn(int argc, char **argv);

/* Exit status; what went to stdout and stderr is in `shown` and `said`. */
static int call(command_fn *f, const char *a, const char *b)
{
    int status;
    pid_t pid = fork();
    if (!pid) {
        char name[] = "command";
        char *argv[] = {name, a ? strdup(a) : NULL, b ? strdup(b) : NULL, NULL};
        redirect(1, "out");
        redirect(2, "err");
        alarm(20);
        status = f(1 + !!a + !!b, argv);
        fflush(stdout);
        _exit(status);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    slurp(shown, sizeof shown, "out");
    slurp(said, sizeof said, "err");
    return WEXITSTATUS(status);
}

static int report(const char *a, const char *b)
{
    return call(nng_cli_report, a, b);
}

static void assert_one_line(const char *part)
{
    assert_memory_equal(said, NNG_PREFIX, strlen(NNG_PREFIX));
    assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
    assert_has(said, part);
}

/* ---- folders ---------------------------------------------------------------------------------------- */

static const char *folder(const char *id)
{
    static char path[200];
    snprintf(path, sizeof path, "%s/%s", base, id);
    mkdir(path, 0700);
    return path;
}

static void make_report(const char *id, int ordinal)
{
    SET(run.id, id);
    SET(run.dir, folder(id));
    incidents[0].ev.who.ordinal = ordinal;
    assert_int_equal(nng_report_write(&run), 0);
}

/* Returns an open fd of the journal. */
static int make_journal(const char *id, enum nng_monitor_state monitor, off_t size)
{
    char path[300];
    snprintf(path, sizeof path, "%s/journal", folder(id));
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(ftruncate(fd, sizeof(struct nng_journal)), 0);
    struct nng_journal *j = mmap(NULL, sizeof *j, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(j != MAP_FAILED);
    sample_header(j);
    j->hdr.root_pid = 0x7ffffff0; /* nobody */
    j->hdr.start_real_ns = run.start_real_ns;
    j->hdr.start_boot_ns = run.start_boot_ns;
    memcpy(j->hdr.command, "python3\0train.py", 17);
    nng_journal_attach(j);
    nng_self = nng_proc_claim();
    nng_self->pid = j->hdr.root_pid;
    nng_put(&(struct nng_put){.type = NNG_R_BIRTH, .a = 1, .c = NNG_B_ROOT, .text = "python3"});
    nng_journal_detach();
    j->hdr.monitor_state = monitor;
    munmap(j, sizeof *j);
    assert_int_equal(ftruncate(fd, size), 0);
    return fd;
}

static void put_file(const char *id, const char *name, const char *text)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", folder(id), name);
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
}

#define OLD "20261124T140301Z-node7-4702"
#define NEW "20261124T150301Z-node7-4800"
#define WHOLE ((off_t)sizeof(struct nng_journal))

/* ---- what is shown ------------------------------------------------------------------------------------ */

static void test_report__nothing_there__1(void **state)
{
    (void)state;
    assert_int_equal(report(NULL, NULL), 1);
    assert_one_line("nothing to show");
    assert_string_equal(shown, "");
}

static void test_report__newest_with_incident(void **state)
{
    (void)state;
    make_report(NEW, 5);
    make_report(OLD, 3);
    close(make_journal("20261124T160000Z-node7-1", NNG_M_GONE, WHOLE)); /* all was well */
    assert_int_equal(report(NULL, NULL), 0);
    assert_has(shown, "worker 5 of 6 died");
    assert_string_equal(said, "");
    assert_int_equal(report(OLD, NULL), 0);
    assert_has(shown, "worker 3 of 6 died");
    assert_int_equal(report("latest", NULL), 0);
    assert_has(shown, "worker 5 of 6 died");
    assert_int_equal(report(base, NULL), 0);
    assert_has(shown, "worker 5 of 6 died");
}

static void test_report__json(void **state)
{
    (void)state;
    make_report(OLD, 3);
    for (int first = 0; first < 2; first++) {
        assert_int_equal(first ? report("--json", OLD) : report(OLD, "--json"), 0);
        json_t *o = json_loads(shown, 0, NULL);
        assert_string_equal(json_string_value(json_object_get(o, "schema")), "nnguard-report/1");
        json_decref(o);
    }
}

static void test_report__file_of_a_run__its_folder(void **state)
{
    (void)state;
    char path[300];
    make_report(OLD, 3);
    snprintf(path, sizeof path, "%s/%s/report.txt", base, OLD);
    assert_int_equal(report(path, NULL), 0);
    assert_has(shown, "worker 3 of 6 died");
}

static void test_report__run_goes_on(void **state)
{
    (void)state;
    int fd = make_journal(OLD, NNG_M_READY, WHOLE);
    assert_int_equal(flock(fd, LOCK_EX), 0); /* as its monitor does */
    assert_int_equal(report(OLD, NULL), 1);
    assert_one_line("still goes on and has had no incident");
    assert_int_equal(report(NULL, NULL), 1);
    make_report(OLD, 3);
    assert_int_equal(report(OLD, NULL), 0);
    assert_one_line("still goes on; its report may grow");
    assert_has(shown, "worker 3 of 6 died");
    close(fd);
}

static void test_report__ended_without_a_word__journal_is_asked(void **state)
{
    (void)state;
    char path[300];
    make_report(OLD, 3);
    close(make_journal(NEW, NNG_M_READY, WHOLE));
    assert_int_equal(report(NULL, NULL), 0);
    assert_has(shown, "report of run " NEW);
    snprintf(path, sizeof path, "%s/%s/report.json", base, NEW);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(report(NEW, "--json"), 0);
    assert_has(shown, "\"ended_silently\": true");
}

static void test_report__monitor_killed_amid__its_report_stays(void **state)
{
    (void)state;
    make_report(OLD, 3);
    close(make_journal(OLD, NNG_M_READY, WHOLE));
    assert_int_equal(report(OLD, NULL), 0);
    assert_one_line("the monitor was killed");
    assert_has(shown, "worker 3 of 6 died");
}

static void test_report__all_was_well__1(void **state)
{
    (void)state;
    close(make_journal(OLD, NNG_M_GONE, WHOLE));
    assert_int_equal(report(OLD, NULL), 1);
    assert_one_line("nothing went wrong");
}

/* ---- bad input ------------------------------------------------------------------------------------------ */

static void test_report__bad_journals__one_line_each(void **state)
{
    (void)state;
    close(make_journal(OLD, NNG_M_READY, WHOLE - 1));
    assert_int_equal(report(OLD, NULL), 1);
    assert_one_line("is cut short");
    close(make_journal(OLD, NNG_M_READY, 0));
    assert_int_equal(report(OLD, NULL), 1);
    assert_one_line("is cut short");
    put_file(OLD, "journal", "this is not a journal, but a text that somebody left here");
    assert_int_equal(report(OLD, NULL), 1);
    assert_one_line("is no journal of nnguard");
    assert_int_equal(report("no-such-run", NULL), 1);
    assert_one_line("no run 'no-such-run'");
    assert_int_equal(report("/dev", NULL), 1);
    assert_one_line("holds no run of nnguard");
}

static void test_report__bad_newest__said_and_older_shown(void **state)
{
    (void)state;
    make_report(OLD, 3);
    close(make_journal(NEW, NNG_M_READY, 5000));
    assert_int_equal(report(NULL, NULL), 0);
    assert_one_line("is cut short");
    assert_has(shown, "worker 3 of 6 died");
}

static void test_report__damaged_reports__refused(void **state)
{
    (void)state;
    put_file(OLD, "report.json", "{\"schema\": \"something else\"}");
    put_file(OLD, "report.txt", "");
    assert_int_equal(report(OLD, "--json"), 1);
    assert_one_line("is damaged");
    assert_int_equal(report(OLD, NULL), 1);
    assert_one_line("is damaged");
    put_file(OLD, "report.json", "{\"schema\":");
    assert_int_equal(report(OLD, "--json"), 1);
    assert_one_line("is damaged");
}

static void test_report__hostile_text__cleaned(void **state)
{
    (void)state;
    put_file(OLD, "report.json", "{}");
    put_file(OLD, "report.txt", "good\n\033[2Jbad\033]0;x\007\n\xff\n");
    assert_int_equal(report(OLD, NULL), 0);
    assert_has(shown, "good\n");
    assert_has_not(shown, "\033");
    assert_int_equal(report("\033[31mx\n", NULL), 1);
    assert_one_line("no run '");
    assert_has_not(said, "\033");
}

static void test_report__wrong_use__2(void **state)
{
    (void)state;
    assert_int_equal(report("--frob", NULL), 2);
    assert_one_line("unknown option '--frob'");
    assert_int_equal(report("-x", NULL), 2);
    assert_one_line("unknown option '-x'");
    assert_int_equal(report("a", "b"), 2);
    assert_one_line("one too many");
    assert_int_equal(report("--help", NULL), 0);
    assert_has(shown, "nnguard report [RUN|DIR] [--json]");
}

static void test_run__wrong_use__2(void **state)
{
    (void)state;
    assert_int_equal(call(nng_cli_run, NULL, NULL), 2);
    assert_one_line("no command given");
    assert_int_equal(call(nng_cli_run, "--frob", "true"), 2);
    assert_one_line("unknown option '--frob'");
}

/* This program has no library beside it. */
static void test_run__library_missing__127_and_says_where(void **state)
{
    (void)state;
    assert_int_equal(call(nng_cli_run, "true", NULL), 127);
    assert_one_line("libnnguard.so is missing");
}

#define CLI_TEST(f) cmocka_unit_test_setup_teardown(f, make_base, drop_base)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLI_TEST(test_report__nothing_there__1),
        CLI_TEST(test_report__newest_with_incident),
        CLI_TEST(test_report__json),
        CLI_TEST(test_report__file_of_a_run__its_folder),
        CLI_TEST(test_report__run_goes_on),
        CLI_TEST(test_report__ended_without_a_word__journal_is_asked),
        CLI_TEST(test_report__monitor_killed_amid__its_report_stays),
        CLI_TEST(test_report__all_was_well__1),
        CLI_TEST(test_report__bad_journals__one_line_each),
        CLI_TEST(test_report__bad_newest__said_and_older_shown),
        CLI_TEST(test_report__damaged_reports__refused),
        CLI_TEST(test_report__hostile_text__cleaned),
        CLI_TEST(test_report__wrong_use__2),
        CLI_TEST(test_run__wrong_use__2),
        CLI_TEST(test_run__library_missing__127_and_says_where),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
