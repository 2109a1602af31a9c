/* SPDX-License-Identifier: MIT
 *
 * report.txt and report.json: what is in them, and how they get onto a disk.
 */
#include "report_sample.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- report.json
 * ------------------------------------------------------------------------------------ */

static json_t *document(void)
{
    json_error_t e;
    char *text = nng_report_json(&run);
    assert_non_null(text);
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, &e);
    if (!o)
        fail_msg("%s in\n%s", e.text, text);
    free(text);
    return o;
}

static json_t *at(json_t *o, const char *path)
{
    char part[64];
    while (*path) {
        size_t n = strcspn(path, ".");
        snprintf(part, sizeof part, "%.*s", (int)n, path);
        json_t *next = part[0] >= '0' && part[0] <= '9' ? json_array_get(o, (size_t)atoi(part))
                                                        : json_object_get(o, part);
        if (!next)
            fail_msg("no %s at %s", part, path);
        o = next;
        path += n + (path[n] == '.');
    }
    return o;
}

#define assert_str(o, path, want) assert_string_equal(json_string_value(at(o, path)), want)
#define assert_num(o, path, want) assert_int_equal(json_integer_value(at(o, path)), want)
#define assert_null_at(o, path) assert_true(json_is_null(at(o, path)))

static void test_json__fields_of_the_schema(void **state)
{
    (void)state;
    incidents[0].n_consequences = 1;
    incidents[0].consequence[0].pid = 4712;
    incidents[0].consequence[0].signal = 15;
    words(&incidents[0].consequence[0].why, "terminated by the trainer", "");
    json_t *o = document();
    assert_str(o, "schema", "nnguard-report/1");
    assert_str(o, "run.id", run.id);
    assert_str(o, "run.command.2", "2d");
    assert_int_equal(json_array_size(at(o, "run.command")), 3);
    assert_str(o, "run.started", "2026-11-24T14:03:01.000000000Z");
    assert_str(o, "run.ended", "2026-11-24T14:05:12.000000000Z");
    assert_num(o, "run.exit.code", 1);
    assert_null_at(o, "run.exit.signal");
    assert_null_at(o, "run.rank");
    assert_num(o, "root", 0);
    assert_str(o, "incidents.0.kind", "death");
    assert_str(o, "incidents.0.cause", "shm_exhausted");
    assert_str(o, "incidents.0.confidence", "certain");
    assert_num(o, "incidents.0.count", 1);
    assert_null_at(o, "incidents.0.last_time");
    assert_str(o, "incidents.0.time", "2026-11-24T14:03:07.123000000Z");
    assert_str(o, "incidents.0.summary.en",
               "worker 3 of 6 died (pid 4711, SIGBUS): /dev/shm is full");
    assert_num(o, "incidents.0.process.ordinal", 3);
    assert_str(o, "incidents.0.process.start_method", "fork");
    assert_num(o, "incidents.0.exit.signal", 7);
    assert_str(o, "incidents.0.exit.signal_name", "SIGBUS");
    assert_null_at(o, "incidents.0.exit.code");
    assert_num(o, "incidents.0.evidence.0.value", 0);
    assert_str(o, "incidents.0.fixes.0.kind", "root");
    assert_null_at(o, "incidents.0.fixes.0.cost");
    assert_str(o, "incidents.0.fixes.1.kind", "workaround");
    assert_str(o, "incidents.0.fixes.1.cost.zh", "每个 epoch 更慢");
    assert_num(o, "incidents.0.consequences.0.signal", 15);
    assert_int_equal(json_array_size(at(o, "incidents.0.stack.native")), 0);
    json_decref(o);
}

static void test_json__unknown__null(void **state)
{
    (void)state;
    struct nng_evidence *ev = &incidents[0].ev;
    run.end_boot_ns = 0;
    run.exit.known = false;
    run.root = -1;
    ev->status.known = false;
    ev->who.ordinal = ev->who.of = 0;
    incidents[0].verdict.fact[0].type = NNG_FT_NULL;
    incidents[0].verdict.cause = NULL;
    json_t *o = document();
    assert_null_at(o, "run.exit");
    assert_null_at(o, "run.ended");
    assert_null_at(o, "root");
    assert_null_at(o, "incidents.0.exit.signal");
    assert_null_at(o, "incidents.0.exit.code");
    assert_null_at(o, "incidents.0.process.ordinal");
    assert_null_at(o, "incidents.0.evidence.0.value");
    assert_null_at(o, "machine.memory_total_bytes");
    assert_str(o, "incidents.0.cause", "unknown");
    json_decref(o);
}

static void each_string(const json_t *o, void (*check)(const char *s))
{
    const char *key;
    json_t *v;
    size_t i;
    if (json_is_string(o))
        check(json_string_value(o));
    else if (json_is_array(o))
        json_array_foreach(o, i, v) each_string(v, check);
    else if (json_is_object(o)) {
        void *it = json_object_iter((json_t *)(uintptr_t)o);
        for (; it; it = json_object_iter_next((json_t *)(uintptr_t)o, it)) {
            key = json_object_iter_key(it);
            check(key);
            each_string(json_object_iter_value(it), check);
        }
    }
}

static void is_clean(const char *s)
{
    for (const char *p = s; *p; p++)
        if ((unsigned char)*p < 32 || *p == 127)
            fail_msg("control character in: %s", s);
    if (strstr(s, "\xe2\x80\xae") || strstr(s, "\xc2\x9b") || strstr(s, "hunter2"))
        fail_msg("not cleaned: %s", s);
}

static void poison(char *field, size_t n)
{
    static const char evil[] = "\033[31m\xe2\x80\xae\xff\xc2\x9b\r\x01 password=hunter2 \n\x7f";
    for (size_t i = 0; i + 1 < n; i++)
        field[i] = evil[i % (sizeof evil - 1)];
    field[n - 1] = 0;
}

#define POISON(field) poison(field, sizeof(field))

static void poison_all(void)
{
    struct nng_incident *i = &incidents[0];
    POISON(run.host);
    POISON(run.command);
    POISON(run.machine.place_detail);
    POISON(run.machine.kernel);
    POISON(run.machine.env);
    POISON(i->ev.who.name);
    POISON(i->ev.who.cmdline);
    POISON(i->ev.tail);
    i->ev.n_files = 4;
    for (int k = 0; k < 4; k++)
        POISON(i->ev.files[k]);
    i->ev.tb.present = true;
    POISON(i->ev.tb.type);
    POISON(i->ev.tb.message);
    POISON(i->ev.tb.file);
    i->ev.stack.n = 1;
    POISON(i->ev.stack.frame[0].module);
    POISON(i->ev.stack.frame[0].symbol);
    i->ev.stack.n_python = 1;
    POISON(i->ev.stack.python[0]);
    POISON(i->verdict.why.en);
    POISON(i->verdict.proof[0].en);
    i->verdict.fact[0].type = NNG_FT_STR;
    POISON(i->verdict.fact[0].str);
    run.n_moments = 1;
    POISON(run.moment[0].text);
}

static void test_json__hostile_text__clean_and_valid(void **state)
{
    (void)state;
    poison_all();
    json_t *o = document();
    each_string(o, is_clean);
    assert_true(json_array_size(at(o, "incidents.0.last_output")) > 10);
    json_decref(o);
}

/* Counts that lie are no reason to read beyond an array. */
static void test_json__counts_beyond_the_arrays__clamped(void **state)
{
    (void)state;
    struct nng_incident *i = &incidents[0];
    i->n_consequences = i->verdict.n_fix = i->verdict.n_fact = i->verdict.n_proof = 100000;
    i->ev.n_files = i->ev.stack.n = i->ev.stack.n_python = i->ev.stack.culprit = 100000;
    run.n_moments = 100000;
    run.root = 99;
    json_t *o = document();
    assert_int_equal(json_array_size(at(o, "incidents.0.fixes")), NNG_FIXES);
    assert_null_at(o, "root");
    json_decref(o);
    char *text = nng_report_text(&run, &plain);
    assert_non_null(text);
    free(text);
    closing(&plain);
    block(&plain);
}

/* ---- report.txt
 * -------------------------------------------------------------------------------------- */

static void test_text__everything_is_there(void **state)
{
    (void)state;
    struct nng_incident *i = &incidents[0];
    SET(i->ev.tail, "first line\nlast line\n");
    i->ev.n_files = 1;
    SET(i->ev.files[0], "/data/case_017.npz");
    i->ev.stack.taken = true;
    i->ev.stack.n = 1;
    SET(i->ev.stack.frame[0].module, "/lib/libc.so.6");
    run.n_moments = 2; /* noted in the order in which they became known */
    run.moment[0].time_ns = 1006 * SECOND;
    SET(run.moment[0].text, "second");
    run.moment[1].time_ns = 1005 * SECOND;
    SET(run.moment[1].text, "first");
    run.lost_records = 5;
    run.health[NNG_H_HOLD_TIMEOUT] = 2;
    run.n_incidents = 2;
    char *text = nng_report_text(&run, &plain);
    assert_non_null(text);
    assert_has(text, "nnguard " NNG_VERSION_STRING ", report of run 20261124T140301Z-node7-4702\n");
    assert_has(text, "  started   2026-11-24 14:03:01 +0000 on node7, pid 4702\n");
    assert_has(text, "exit status 1");
    assert_has(text, "  command   nnUNetv2_train 1 2d\n");
    assert_has(text, "\nworker 3 of 6 died (pid 4711, SIGBUS): /dev/shm is full\n");
    assert_has(text, "  | first line\n  | last line\n");
    assert_has(text, "  /data/case_017.npz\n");
    assert_has(text, "devshm.free_bytes");
    assert_has(text, "(statfs in the faulting process)");
    assert_has(text, "price: epochs take longer");
    assert_has(text, "  14:03:06.000  first\n  14:03:07.000  second\n");
    assert_has(text, "---- Another incident, 14:03:07.123 ----");
    assert_has(text, "5 records were overwritten unread");
    assert_has(text, "2  a crashing process was let go");
    free(text);
}

static void test_text__hostile__clean(void **state)
{
    (void)state;
    poison_all();
    char *text = nng_report_text(&run, &plain), *clean = malloc(1 << 20);
    assert_non_null(text);
    assert_true(strlen(text) < 1 << 20);
    nng_text_clean(clean, 1 << 20, text, strlen(text));
    assert_string_equal(clean, text);
    assert_has_not(text, "hunter2");
    free(text);
    free(clean);
}

/* ---- on disk
 * ------------------------------------------------------------------------------------------ */

static char base[64];

static int make_base(void **state)
{
    sample_run(state);
    strcpy(base, "/tmp/nng-unit-XXXXXX");
    assert_non_null(mkdtemp(base));
    snprintf(run.dir, sizeof run.dir, "%s/%s", base, run.id);
    assert_int_equal(mkdir(run.dir, 0700), 0);
    return 0;
}

static int drop_base(void **state)
{
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", base);
    return system(command);
}

static char *file(const char *name)
{
    static char text[200000];
    char path[700];
    snprintf(path, sizeof path, "%s/%s", base, name);
    FILE *f = fopen(path, "r");
    if (!f)
        return NULL;
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    return text;
}

static int entries(const char *dir)
{
    int n = 0;
    DIR *d = opendir(dir);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static void test_write__both_files_and_link(void **state)
{
    (void)state;
    struct stat st;
    char path[700];
    assert_int_equal(nng_report_write(&run), 0);
    assert_has(file("latest/report.txt"), "worker 3 of 6 died");
    assert_has(file("latest/report.json"), "nnguard-report/1");
    assert_int_equal(entries(run.dir), 2); /* no temporary file is left */
    snprintf(path, sizeof path, "%s/report.txt", run.dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    incidents[0].ev.who.ordinal = 5;
    assert_int_equal(nng_report_write(&run), 0);
    assert_has(file("latest/report.txt"), "worker 5 of 6 died");
    assert_int_equal(entries(run.dir), 2);
    assert_int_equal(entries(base), 2);
}

static void test_write__older_run__does_not_take_the_link(void **state)
{
    (void)state;
    assert_int_equal(nng_report_write(&run), 0);
    SET(run.id, "20261124T140300Z-node7-99");
    snprintf(run.dir, sizeof run.dir, "%s/%s", base, run.id);
    mkdir(run.dir, 0700);
    incidents[0].ev.who.ordinal = 1;
    assert_int_equal(nng_report_write(&run), 0);
    assert_has(file("latest/report.txt"), "worker 3 of 6");
    SET(run.id, "20261124T140302Z-node7-99");
    snprintf(run.dir, sizeof run.dir, "%s/%s", base, run.id);
    mkdir(run.dir, 0700);
    assert_int_equal(nng_report_write(&run), 0);
    assert_has(file("latest/report.txt"), "worker 1 of 6");
}

static void test_write__link_in_the_way__not_followed(void **state)
{
    (void)state;
    char path[700], victim[700];
    snprintf(victim, sizeof victim, "%s/victim", base);
    close(open(victim, O_CREAT | O_WRONLY, 0600));
    snprintf(path, sizeof path, "%s/report.txt", run.dir);
    assert_int_equal(symlink(victim, path), 0);
    snprintf(path, sizeof path, "%s/.report.json.%d", run.dir, (int)getpid());
    assert_int_equal(symlink(victim, path), 0);
    assert_int_equal(nng_report_write(&run), 0);
    assert_string_equal(file("victim"), "");
}

static void test_write__no_folder__says_so(void **state)
{
    (void)state;
    run.dir[0] = 0;
    assert_int_equal(nng_report_write(&run), -ENOENT);
    SET(run.dir, "/nonexistent/x");
    assert_int_equal(nng_report_write(&run), -ENOENT);
}

/* On a real full disk, in a mount namespace of its own. */
static int write_on_full_disk(void)
{
    char path[700];
    static char zeros[4096];
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("tmpfs", base, "tmpfs", 0, "size=64k"))
        return 77;
    if (mkdir(run.dir, 0700) || nng_report_write(&run))
        return 1;
    snprintf(path, sizeof path, "%s/filler", base);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    while (write(fd, zeros, sizeof zeros) > 0)
        ;
    incidents[0].ev.who.ordinal = 5;
    memset(incidents[0].ev.tail, 'x', 4000);
    if (nng_report_write(&run) != -ENOSPC)
        return 2;
    return strstr(file("latest/report.txt"), "worker 3 of 6") &&
                   strstr(file("latest/report.json"), "worker 3 of 6") && entries(run.dir) == 2
               ? 0
               : 3;
}

static void test_write__full_disk__older_version_stays(void **state)
{
    (void)state;
    int status;
    pid_t pid = fork();
    if (!pid)
        _exit(write_on_full_disk());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip(); /* may not mount */
    assert_int_equal(status, 0);
}

#define RUN_TEST(f) cmocka_unit_test_setup(f, sample_run)
#define DISK_TEST(f) cmocka_unit_test_setup_teardown(f, make_base, drop_base)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN_TEST(test_json__fields_of_the_schema),
        RUN_TEST(test_json__unknown__null),
        RUN_TEST(test_json__hostile_text__clean_and_valid),
        RUN_TEST(test_json__counts_beyond_the_arrays__clamped),
        RUN_TEST(test_text__everything_is_there),
        RUN_TEST(test_text__hostile__clean),
        DISK_TEST(test_write__both_files_and_link),
        DISK_TEST(test_write__older_run__does_not_take_the_link),
        DISK_TEST(test_write__link_in_the_way__not_followed),
        DISK_TEST(test_write__no_folder__says_so),
        DISK_TEST(test_write__full_disk__older_version_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
