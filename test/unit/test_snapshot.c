/* SPDX-License-Identifier: MIT
 *
 * The reader of the journal against torn, lying and foreign files.
 */
#include "journal_sample.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

static void open_view(struct nng_view *v, const struct sample *s)
{
    assert_int_equal(nng_view_open(v, s->path, -1, true), 0);
}

static void pause_ms(long ms)
{
    struct timespec ts = {0, ms * 1000000};
    nanosleep(&ts, NULL);
}

/* ---- opening ------------------------------------------------------------------------------------
 */

static void test_open__whole_journal__header_copied(void **state)
{
    struct sample *s = *state;
    struct nng_view v;
    memset(s->j->hdr.run_dir, 'x', sizeof s->j->hdr.run_dir);
    memset(s->j->hdr.command, 'y', sizeof s->j->hdr.command);
    open_view(&v, s);
    assert_string_equal(v.hdr.host, "node7");
    assert_int_equal(strlen(v.hdr.run_dir), sizeof v.hdr.run_dir - 1);
    assert_int_equal(v.hdr.command[sizeof v.hdr.command - 1], 0);
    assert_int_equal(v.hdr.command[sizeof v.hdr.command - 2], 0);
    nng_view_close(&v);
}

static void test_open__foreign_files__told_apart(void **state)
{
    struct sample *s = *state;
    struct nng_view v;
    assert_int_equal(nng_view_open(&v, "/tmp", -1, false), -EISDIR);
    assert_int_equal(nng_view_open(&v, "/nonexistent/journal", -1, false), -ENOENT);
    assert_int_equal(nng_view_open(&v, "/dev/null", -1, false), -EPROTO);
    s->j->hdr.version = NNG_VERSION + 1;
    assert_int_equal(nng_view_open(&v, s->path, -1, false), -EPROTONOSUPPORT);
    s->j->hdr.version = NNG_VERSION;
    s->j->hdr.header_size++;
    assert_int_equal(nng_view_open(&v, s->path, -1, false), -EPROTONOSUPPORT);
    sample_header(s->j);
    s->j->hdr.magic ^= 1;
    assert_int_equal(nng_view_open(&v, s->path, -1, false), -EPROTO);
    assert_null(v.j);
    assert_int_equal(v.fd, -1);
}

static void test_open__fifo__does_not_wait(void **state)
{
    (void)state;
    char path[64] = "/tmp/nng-unit-fifo-XXXXXX";
    struct nng_view v;
    assert_true(mkdtemp(path) != NULL);
    strcat(path, "/j");
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(5);
    assert_int_equal(nng_view_open(&v, path, -1, false), -EPROTO);
    alarm(0);
    unlink(path);
    *strrchr(path, '/') = 0;
    rmdir(path);
}

static void test_open__cut_at_every_size__refused(void **state)
{
    struct sample *s = *state;
    struct nng_view v;
    static const off_t sizes[] = {0, 1, 7, 8, 100, 4095, 4096, 8192, 100000};
    int fd = open(s->path, O_RDWR);
    assert_true(ftruncate(fd, sizeof(struct nng_journal) - 1) == 0);
    assert_int_equal(nng_view_open(&v, s->path, -1, false), -EMSGSIZE);
    for (size_t i = sizeof sizes / sizeof *sizes; i-- > 0;) {
        assert_true(ftruncate(fd, sizes[i]) == 0);
        assert_int_equal(nng_view_open(&v, s->path, -1, false), -EMSGSIZE);
    }
    close(fd);
}

/* ---- records
 * ------------------------------------------------------------------------------------- */

static void test_cursor__records__in_order_with_text(void **state)
{
    struct nng_view v;
    struct nng_cursor c;
    struct nng_got g;
    open_view(&v, *state);
    nng_cursor_init(&c, &v, NNG_RING_EVENTS);
    assert_false(nng_cursor_next(&c, &v, false, &g));
    for (int i = 0; i < 5; i++)
        put_note(i, i ? "hello" : NULL);
    for (int i = 0; i < 5; i++) {
        assert_true(nng_cursor_next(&c, &v, false, &g));
        assert_int_equal(g.ticket, i);
        assert_int_equal(g.rec.a, i);
        assert_int_equal(g.rec.pid, getpid());
        assert_string_equal(g.text, i ? "hello" : "");
    }
    assert_false(nng_cursor_next(&c, &v, false, &g));
    nng_view_close(&v);
}

static void test_cursor__ring_went_round__newest_kept_losses_counted(void **state)
{
    struct nng_view v;
    struct nng_cursor c, late;
    struct nng_got g;
    unsigned n = 0;
    open_view(&v, *state);
    nng_cursor_init(&c, &v, NNG_RING_EVENTS);
    for (unsigned i = 0; i < 2 * NNG_EVENTS_N + 10; i++)
        put_note(i, "x");
    while (nng_cursor_next(&c, &v, false, &g)) {
        if (!n++)
            assert_int_equal(g.rec.a, NNG_EVENTS_N + 10);
    }
    assert_int_equal(n, NNG_EVENTS_N);
    assert_int_equal(c.lost, NNG_EVENTS_N + 10);
    assert_int_equal(c.torn, 0);
    nng_cursor_init(&late, &v, NNG_RING_EVENTS);
    assert_int_equal(late.lost, NNG_EVENTS_N + 10);
    nng_view_close(&v);
}

static void test_cursor__uncommitted__waits_20_ms_then_goes_on(void **state)
{
    struct sample *s = *state;
    struct nng_view v;
    struct nng_cursor c;
    struct nng_got g;
    open_view(&v, s);
    nng_cursor_init(&c, &v, NNG_RING_EVENTS);
    atomic_fetch_add(&s->j->events_ring.next, 3); /* three writers that were killed */
    put_note(7, "after");
    assert_false(nng_cursor_next(&c, &v, false, &g));
    pause_ms(25);
    /* the three waited together */
    assert_true(nng_cursor_next(&c, &v, false, &g));
    assert_int_equal(g.rec.a, 7);
    assert_int_equal(c.torn, 3);
    nng_view_close(&v);
}

static void test_cursor__final__does_not_wait(void **state)
{
    struct sample *s = *state;
    struct nng_view v;
    struct nng_cursor c;
    struct nng_got g;
    open_view(&v, s);
    nng_cursor_init(&c, &v, NNG_RING_EVENTS);
    atomic_fetch_add(&s->j->events_ring.next, 3);
    put_note(7, "after");
    assert_true(nng_cursor_next(&c, &v, true, &g));
    assert_int_equal(g.rec.a, 7);
    assert_int_equal(c.torn, 3);
    nng_view_close(&v);
}

static void test_cursor__late_writer__still_delivered(void **state)
{
    struct sample *s = *state;
    struct nng_view v;
    struct nng_cursor c;
    struct nng_got g;
    open_view(&v, s);
    nng_cursor_init(&c, &v, NNG_RING_EVENTS);
    put_note(1, "slow");
    uint64_t word = atomic_exchange(&s->j->events[0].commit, 0); /* not yet committed */
    put_note(2, "fast");
    assert_false(nng_cursor_next(&c, &v, false, &g));
    pause_ms(25);
    assert_true(nng_cursor_next(&c, &v, false, &g));
    assert_int_equal(g.rec.a, 2);
    assert_int_equal(c.torn, 1);
    assert_false(nng_cursor_next(&c, &v, false, &g));
    atomic_store(&s->j->events[0].commit, word);
    assert_true(nng_cursor_next(&c, &v, false, &g));
    assert_int_equal(g.rec.a, 1);
    assert_int_equal(c.torn, 0);
    assert_false(nng_cursor_next(&c, &v, false, &g));
    nng_view_close(&v);
}

static void test_cursor__every_flipped_byte__record_refused(void **state)
{
    struct sample *s = *state;
    struct nng_view v;
    struct nng_got g;
    open_view(&v, s);
    put_note(1, "exactly sixteen.");
    unsigned char *p = (unsigned char *)&s->j->events[0];
    size_t used = offsetof(struct nng_rec, text) + 16;
    for (size_t i = 0; i < used; i++) {
        struct nng_cursor c;
        p[i] ^= 0x41;
        nng_cursor_init(&c, &v, NNG_RING_EVENTS);
        assert_false(nng_cursor_next(&c, &v, true, &g));
        assert_int_equal(c.torn + c.lost, 1);
        p[i] ^= 0x41;
    }
    nng_view_close(&v);
}

/* A record whose check sum is right, but whose fields lie: a hostile writer can compute the sum. */
static void sign(struct nng_rec *r, uint32_t ticket)
{
    atomic_store(&r->commit, (uint64_t)(ticket + 1) << 32 | nng_rec_check(r, ticket));
}

static void test_cursor__signed_lies__refused_or_clamped(void **state)
{
    struct sample *s = *state;
    struct nng_view v;
    struct nng_cursor c;
    struct nng_got g;
    open_view(&v, s);
    for (int i = 0; i < 4; i++)
        put_note(i, "x");
    s->j->events[0].text_len = 60000;
    s->j->events[1].type = 999;
    s->j->events[2].call = 999;
    s->j->events[2].proc = 0xffffffff;
    for (uint32_t i = 0; i < 3; i++)
        sign(&s->j->events[i], i);
    nng_cursor_init(&c, &v, NNG_RING_EVENTS);
    assert_true(nng_cursor_next(&c, &v, true, &g));
    assert_int_equal(g.ticket, 2);
    assert_int_equal(g.rec.call, NNG_C_OTHER);
    assert_int_equal(g.rec.proc, NNG_PROCS_N);
    assert_true(nng_cursor_next(&c, &v, true, &g));
    assert_int_equal(g.ticket, 3);
    assert_int_equal(c.torn, 2);
    nng_view_close(&v);
}

/* A writer that was stopped while the ring went round, and then commits its old ticket over the
 * new. */
static void test_cursor__overlapping_tickets__only_whole_records(void **state)
{
    struct sample *s = *state;
    struct nng_view v;
    struct nng_cursor c;
    struct nng_got g;
    struct nng_rec old;
    open_view(&v, s);
    put_note(1, "old");
    memcpy(&old, &s->j->events[0], sizeof old);
    for (unsigned i = 0; i < NNG_EVENTS_N; i++)
        put_note(2, "new");
    memcpy(&s->j->events[0], &old, sizeof old); /* ticket 0 over ticket NNG_EVENTS_N */
    nng_cursor_init(&c, &v, NNG_RING_EVENTS);
    unsigned n = 0;
    for (; nng_cursor_next(&c, &v, true, &g); n++)
        assert_int_equal(g.rec.a, 2);
    assert_int_equal(n, NNG_EVENTS_N - 1);
    assert_int_equal(c.torn, 1);
    nng_view_close(&v);
}

static void test_cursor__lying_counter__bounded(void **state)
{
    struct sample *s = *state;
    struct nng_view v;
    struct nng_cursor c;
    struct nng_got g;
    static const uint64_t lies[] = {UINT64_MAX, UINT64_MAX - 1, 1ull << 63, 1ull << 32,
                                    NNG_EVENTS_N + 1};
    open_view(&v, s);
    put_note(1, "x");
    alarm(20);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        atomic_store(&s->j->events_ring.next, lies[i]);
        nng_cursor_init(&c, &v, NNG_RING_EVENTS);
        while (nng_cursor_next(&c, &v, true, &g))
            ;
        assert_true(c.next <= lies[i]);
    }
    alarm(0);
    nng_view_close(&v);
}

static void test_random_bytes__nothing_invented(void **state)
{
    struct sample *s = *state;
    struct nng_view v;
    struct nng_got g;
    static struct nng_proc p;
    static char tail[NNG_TAIL_SIZE + 1];
    srandom(7);
    unsigned char *bytes = (unsigned char *)s->j;
    for (size_t i = sizeof(struct nng_header); i < sizeof(struct nng_journal); i++)
        bytes[i] = (unsigned char)random();
    open_view(&v, s);
    for (int ring = NNG_RING_EVENTS; ring <= NNG_RING_SAMPLES; ring++) {
        struct nng_cursor c;
        nng_cursor_init(&c, &v, (enum nng_ring_id)ring);
        assert_false(nng_cursor_next(&c, &v, true, &g));
    }
    for (unsigned i = 0; i < NNG_PROCS_N; i++) {
        s->j->procs[i].state = NNG_P_LIVE;
        assert_true(nng_view_proc(&v, i, &p));
        assert_true(strlen(p.comm) < sizeof p.comm);
        assert_true(strlen(p.cmdline) < sizeof p.cmdline);
        assert_true(strlen(p.fault.map_path) < sizeof p.fault.map_path);
        assert_true(p.fault.state <= NNG_F_DYING);
        assert_true(p.birth >= NNG_B_ROOT && p.birth <= NNG_B_FORK);
        unsigned n = nng_proc_tail(&p, tail);
        assert_int_equal(strlen(tail), n);
        for (unsigned k = 0; k < NNG_FILES_N + 2; k++) {
            const char *f = nng_proc_file(&p, k);
            assert_true(!f || strlen(f) < NNG_PATH);
        }
    }
    nng_view_close(&v);
}

/* ---- processes
 * ------------------------------------------------------------------------------------ */

static struct nng_proc *enter(uint32_t pid, uint64_t generation)
{
    struct nng_proc *p = nng_proc_claim();
    assert_non_null(p);
    p->pid = pid;
    p->generation = generation;
    p->birth = NNG_B_FORK;
    atomic_store(&p->state, NNG_P_LIVE);
    return p;
}

static void test_find__pid_used_twice__newest(void **state)
{
    struct nng_view v;
    open_view(&v, *state);
    enter(100, 5);
    enter(200, 6);
    struct nng_proc *newer = enter(100, 9);
    assert_int_equal(nng_view_find(&v, 100), newer - nng_journal->procs);
    assert_int_equal(nng_view_find(&v, 300), -1);
    nng_view_close(&v);
}

static void test_tail__wraps__last_bytes_in_order(void **state)
{
    struct nng_view v;
    static struct nng_proc p;
    static char tail[NNG_TAIL_SIZE + 1];
    open_view(&v, *state);
    nng_self = enter(100, 1);
    nng_tail_put("short", 5);
    assert_true(nng_view_proc(&v, 0, &p));
    assert_int_equal(nng_proc_tail(&p, tail), 5);
    assert_string_equal(tail, "short");
    char line[16];
    for (int i = 0; i < 2000; i++)
        nng_tail_put(line, (size_t)snprintf(line, sizeof line, "%d\n", i));
    assert_true(nng_view_proc(&v, 0, &p));
    assert_int_equal(nng_proc_tail(&p, tail), NNG_TAIL_SIZE);
    assert_string_equal(tail + NNG_TAIL_SIZE - 10, "1998\n1999\n");
    /* the counter of a chatty process wraps at 4 GiB */
    atomic_fetch_add(&nng_self->tail_pos, (uint32_t) - (int32_t)(nng_self->tail_pos & ~4095u));
    assert_true(nng_view_proc(&v, 0, &p));
    assert_int_equal(nng_proc_tail(&p, tail), NNG_TAIL_SIZE);
    assert_string_equal(tail + NNG_TAIL_SIZE - 10, "1998\n1999\n");
    nng_view_close(&v);
}

static void test_files__more_than_kept__newest_first(void **state)
{
    struct nng_view v;
    static struct nng_proc p;
    char name[32];
    open_view(&v, *state);
    nng_self = enter(100, 1);
    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof name, "/data/case_%d.npz", i);
        nng_file_put(name);
    }
    assert_true(nng_view_proc(&v, 0, &p));
    assert_string_equal(nng_proc_file(&p, 0), "/data/case_6.npz");
    assert_string_equal(nng_proc_file(&p, 3), "/data/case_3.npz");
    assert_null(nng_proc_file(&p, 4));
    nng_view_close(&v);
}

static void test_free_proc__other_generation__left_alone(void **state)
{
    struct nng_view v;
    static struct nng_proc p;
    open_view(&v, *state);
    enter(100, 5);
    nng_view_free_proc(&v, 0, 4);
    assert_true(nng_view_proc(&v, 0, &p));
    nng_view_free_proc(&v, 0, 5);
    assert_false(nng_view_proc(&v, 0, &p));
    assert_false(nng_view_proc(&v, NNG_PROCS_N, &p));
    nng_view_close(&v);
}

/* ---- a file that shrinks under the reader
 * ----------------------------------------------------------- */

static int read_while_cut(const char *path)
{
    struct nng_view v;
    struct nng_cursor c;
    struct nng_got g;
    static struct nng_proc p;
    int n = 0;
    if (nng_view_open(&v, path, -1, true))
        return 10;
    nng_view_guard(&v);
    nng_cursor_init(&c, &v, NNG_RING_EVENTS);
    if (truncate(path, 0))
        return 11;
    while (nng_cursor_next(&c, &v, true, &g))
        n++;
    if (n || nng_view_proc(&v, 0, &p) || nng_view_find(&v, 1) != -1)
        return 12;
    if (nng_view_gone())
        return 13;
    atomic_fetch_add(&v.j->hdr.suspects_seen, 1); /* SIGBUS, but for the guard */
    return nng_view_gone() && nng_view_refresh(&v) == -EMSGSIZE ? 0 : 14;
}

static void test_guard__file_cut_while_mapped__reader_lives(void **state)
{
    struct sample *s = *state;
    int status;
    put_note(1, "x");
    pid_t pid = fork();
    if (!pid) {
        signal(SIGBUS, SIG_DFL);
        _exit(read_while_cut(s->path));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void test_guard__other_sigbus__kills_as_ever(void **state)
{
    struct sample *s = *state;
    int status;
    pid_t pid = fork();
    if (!pid) {
        struct nng_view v;
        if (nng_view_open(&v, s->path, -1, true))
            _exit(1);
        nng_view_guard(&v);
        raise(SIGBUS); /* sent: not ours */
        _exit(2);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    pid = fork();
    if (!pid) {
        struct nng_view v;
        if (nng_view_open(&v, s->path, -1, true))
            _exit(1);
        nng_view_guard(&v);
        int fd = memfd_create("x", 0);
        volatile char *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
        (void)p[0];
        _exit(2);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

static void test_names__every_number__has_one(void **state)
{
    (void)state;
    assert_string_equal(nng_rec_type_name(NNG_R_WAIT), "wait");
    assert_string_equal(nng_rec_type_name(NNG_R_SAMPLE), "sample");
    assert_string_equal(nng_rec_type_name(NNG_R_COUNT), "?");
    assert_string_equal(nng_call_name(NNG_C_POSIX_FALLOCATE), "posix_fallocate");
    assert_string_equal(nng_call_name(65535), "?");
    assert_true(strlen(nng_health_text(NNG_H_COUNT - 1)) > 5);
    assert_string_equal(nng_health_text(NNG_H_COUNT), "?");
}

#define JOURNAL_TEST(f) cmocka_unit_test_setup_teardown(f, sample_make, sample_drop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        JOURNAL_TEST(test_open__whole_journal__header_copied),
        JOURNAL_TEST(test_open__foreign_files__told_apart),
        cmocka_unit_test(test_open__fifo__does_not_wait),
        JOURNAL_TEST(test_open__cut_at_every_size__refused),
        JOURNAL_TEST(test_cursor__records__in_order_with_text),
        JOURNAL_TEST(test_cursor__ring_went_round__newest_kept_losses_counted),
        JOURNAL_TEST(test_cursor__uncommitted__waits_20_ms_then_goes_on),
        JOURNAL_TEST(test_cursor__final__does_not_wait),
        JOURNAL_TEST(test_cursor__late_writer__still_delivered),
        JOURNAL_TEST(test_cursor__every_flipped_byte__record_refused),
        JOURNAL_TEST(test_cursor__signed_lies__refused_or_clamped),
        JOURNAL_TEST(test_cursor__overlapping_tickets__only_whole_records),
        JOURNAL_TEST(test_cursor__lying_counter__bounded),
        JOURNAL_TEST(test_random_bytes__nothing_invented),
        JOURNAL_TEST(test_find__pid_used_twice__newest),
        JOURNAL_TEST(test_tail__wraps__last_bytes_in_order),
        JOURNAL_TEST(test_files__more_than_kept__newest_first),
        JOURNAL_TEST(test_free_proc__other_generation__left_alone),
        JOURNAL_TEST(test_guard__file_cut_while_mapped__reader_lives),
        JOURNAL_TEST(test_guard__other_sigbus__kills_as_ever),
        cmocka_unit_test(test_names__every_number__has_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
