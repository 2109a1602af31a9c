/* SPDX-License-Identifier: MIT
 *
 * Writing into the journal, above all by several processes at once that are killed in the middle of
 * it: whatever a reader is given must be exactly what one writer wrote.
 */
#include "journal_sample.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#define WRITERS 3
#define KILLS 60

/* ---- a record whose parts prove each other
 * ------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static void text_of(uint64_t seed, char *out)
{
    size_t n = mix(seed) % NNG_TEXT;
    for (size_t i = 0; i < n; i++)
        out[i] = (char)('a' + (mix(seed + i / 8) >> (i % 8 * 8)) % 26);
    out[n] = 0;
}

static void put_proof(uint64_t seed, enum nng_rec_type type)
{
    char text[NNG_TEXT + 1];
    text_of(seed, text);
    nng_put(&(struct nng_put){.type = type,
                              .call = (enum nng_call)(seed % NNG_C_COUNT),
                              .a = (int64_t)seed,
                              .b = (int64_t)mix(seed + 1),
                              .c = (int64_t)mix(seed + 2),
                              .d = (int64_t)mix(seed + 3),
                              .text = text});
}

static bool proves_itself(const struct nng_got *g)
{
    char text[NNG_TEXT + 1];
    uint64_t seed = (uint64_t)g->rec.a;
    text_of(seed, text);
    return g->rec.b == (int64_t)mix(seed + 1) && g->rec.c == (int64_t)mix(seed + 2) &&
           g->rec.d == (int64_t)mix(seed + 3) && g->rec.call == seed % NNG_C_COUNT &&
           !strcmp(g->text, text);
}

static pid_t start_writer(uint64_t seed)
{
    pid_t pid = fork();
    if (!pid) {
        nng_journal_attach(nng_journal); /* own pid and tid */
        for (;; seed++)
            put_proof(mix(seed), seed % 4 ? NNG_R_MAP : NNG_R_NOTE);
    }
    return pid;
}

static void end_writer(pid_t pid)
{
    int status;
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

struct count {
    unsigned long good, bad;
};

static void read_all(struct nng_cursor *c, const struct nng_view *v, bool final, struct count *n)
{
    struct nng_got g;
    /* bounded: the writers may be faster than we are */
    for (int i = 0; i < 4000 && nng_cursor_next(c, v, final, &g); i++) {
        if (proves_itself(&g))
            n->good++;
        else
            n->bad++;
    }
}

static void test_killed_writers__nothing_bad_is_read(void **state)
{
    struct sample *s = *state;
    struct nng_view v;
    struct nng_cursor c[2];
    struct count n = {0, 0};
    pid_t pid[WRITERS];
    uint64_t seed = 1;
    assert_int_equal(nng_view_open(&v, s->path, -1, false), 0);
    nng_cursor_init(&c[0], &v, NNG_RING_EVENTS);
    nng_cursor_init(&c[1], &v, NNG_RING_TRACE);
    for (int i = 0; i < WRITERS; i++)
        pid[i] = start_writer(seed += 1000000);
    for (int i = 0; i < KILLS; i++) {
        struct timespec ts = {0, (long)(mix((uint64_t)i) % 4000000)};
        read_all(&c[0], &v, false, &n);
        read_all(&c[1], &v, false, &n);
        nanosleep(&ts, NULL);
        end_writer(pid[i % WRITERS]);
        pid[i % WRITERS] = start_writer(seed += 1000000);
    }
    for (int i = 0; i < WRITERS; i++)
        end_writer(pid[i]);
    read_all(&c[0], &v, true, &n);
    read_all(&c[1], &v, true, &n);
    print_message("%d kills: %lu good, %lu bad; torn %llu, lost %llu\n", KILLS + WRITERS, n.good,
                  n.bad, (unsigned long long)(c[0].torn + c[1].torn),
                  (unsigned long long)(c[0].lost + c[1].lost));
    assert_int_equal(n.bad, 0);
    assert_true(n.good > 1000);
    nng_view_close(&v);
}

/* Let a child write one record and kill it after `steps` instructions; false: it was done before.
 */
static bool killed_after(uint64_t seed, long steps)
{
    int status;
    pid_t pid = fork();
    if (!pid) {
        nng_journal_attach(nng_journal);
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        put_proof(seed, NNG_R_NOTE);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    while (WIFSTOPPED(status) && steps-- > 0) {
        assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
    }
    if (WIFEXITED(status))
        return false;
    end_writer(pid);
    return true;
}

static bool may_trace(void)
{
    int status;
    pid_t pid = fork();
    if (!pid)
        _exit(ptrace(PTRACE_TRACEME, 0, NULL, NULL) ? 1 : 0);
    return waitpid(pid, &status, 0) == pid && !status;
}

/* A journal that is left behind by writers killed at every stage of a record. The stride is odd and
 * the span covers fork's way back, the making of the text and the whole of nng_put. */
static void test_killed_at_any_instruction__slots_add_up(void **state)
{
    struct sample *s = *state;
    struct nng_view v;
    struct nng_cursor c;
    struct count n = {0, 0};
    if (!may_trace())
        skip();
    unsigned kills = 0;
    for (long steps = 1; killed_after(1, steps); steps += 61)
        kills++;
    assert_int_equal(nng_view_open(&v, s->path, -1, false), 0);
    nng_cursor_init(&c, &v, NNG_RING_EVENTS);
    read_all(&c, &v, true, &n);
    print_message("%u kills: %lu good, %lu bad, torn %llu\n", kills, n.good, n.bad,
                  (unsigned long long)c.torn);
    assert_int_equal(n.bad, 0);
    assert_true(n.good > 0 && c.torn > 0);
    assert_int_equal(c.next, n.good + c.torn);
    nng_view_close(&v);
}

static void test_two_writers_at_once__all_arrive(void **state)
{
    struct sample *s = *state;
    struct nng_view v;
    struct nng_cursor c;
    struct nng_got g;
    int status;
    pid_t pid = fork();
    if (!pid) {
        nng_journal_attach(nng_journal);
        for (uint64_t i = 0; i < 400; i++)
            put_proof(i, NNG_R_NOTE);
        _exit(0);
    }
    for (uint64_t i = 1000; i < 1400; i++)
        put_proof(i, NNG_R_NOTE);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(nng_view_open(&v, s->path, -1, false), 0);
    nng_cursor_init(&c, &v, NNG_RING_EVENTS);
    unsigned own = 0, other = 0;
    while (nng_cursor_next(&c, &v, false, &g)) {
        assert_true(proves_itself(&g));
        assert_int_equal(g.rec.pid, g.rec.a < 1000 ? pid : getpid());
        if (g.rec.a < 1000)
            other++;
        else
            own++;
    }
    assert_int_equal(own, 400);
    assert_int_equal(other, 400);
    nng_view_close(&v);
}

/* ---- the rest of the contract
 * ---------------------------------------------------------------------- */

static void test_put__long_text__cut_from_the_left(void **state)
{
    struct sample *s = *state;
    struct nng_view v;
    struct nng_cursor c;
    struct nng_got g;
    char text[400];
    memset(text, 'x', sizeof text);
    strcpy(text + 380, "end.py");
    errno = 42;
    put_note(0, text);
    assert_int_equal(errno, 42);
    assert_int_equal(nng_view_open(&v, s->path, -1, false), 0);
    nng_cursor_init(&c, &v, NNG_RING_EVENTS);
    assert_true(nng_cursor_next(&c, &v, false, &g));
    assert_int_equal(strlen(g.text), NNG_TEXT);
    assert_string_equal(g.text + NNG_TEXT - 6, "end.py");
    assert_true(g.rec.flags & NNG_RF_CUT);
    nng_view_close(&v);
}

static void test_put__suspect__rings_the_bell(void **state)
{
    struct sample *s = *state;
    uint32_t before = atomic_load(&s->j->hdr.bell);
    put_note(0, "ordinary");
    assert_int_equal(atomic_load(&s->j->hdr.bell), before);
    nng_put(&(struct nng_put){.type = NNG_R_FAIL, .flags = NNG_RF_SUSPECT});
    assert_int_equal(atomic_load(&s->j->hdr.bell), before + 1);
    assert_int_equal(atomic_load(&s->j->hdr.suspects), 1);
}

static void test_off__every_call_does_nothing(void **state)
{
    (void)state;
    uint64_t size;
    nng_journal_detach();
    assert_int_equal(put_note(1, "x"), 0);
    nng_ring_bell();
    nng_health(NNG_H_NESTED);
    nng_tail_put("x", 1);
    nng_file_put("x");
    nng_size_put(1, 2, 3);
    assert_false(nng_size_get(1, 2, &size));
    assert_null(nng_proc_claim());
}

static void test_claim__all_taken__counted(void **state)
{
    struct sample *s = *state;
    for (unsigned i = 0; i < NNG_PROCS_N; i++) {
        struct nng_proc *p = nng_proc_claim();
        assert_non_null(p);
        p->generation = 1000 - i;
        atomic_store(&p->state, NNG_P_LIVE);
    }
    assert_null(nng_proc_claim());
    assert_int_equal(atomic_load(&s->j->hdr.health[NNG_H_NO_PROC_ENTRY]), 1);
    atomic_store(&s->j->procs[3].state, NNG_P_LEFT);
    atomic_store(&s->j->procs[9].state, NNG_P_LEFT);
    assert_ptr_equal(nng_proc_claim(), &s->j->procs[9]); /* the oldest of those that left */
    assert_int_equal(atomic_load(&s->j->procs[9].state), NNG_P_CLAIMED);
}

static void test_sizes__last_one_counts(void **state)
{
    (void)state;
    uint64_t size;
    for (uint64_t i = 0; i < 500; i++)
        nng_size_put(5, i, i * 10);
    nng_size_put(5, 400, 77);
    assert_true(nng_size_get(5, 400, &size));
    assert_int_equal(size, 77);
    assert_false(nng_size_get(6, 400, &size));
}

#define JOURNAL_TEST(f) cmocka_unit_test_setup_teardown(f, sample_make, sample_drop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        JOURNAL_TEST(test_killed_writers__nothing_bad_is_read),
        JOURNAL_TEST(test_killed_at_any_instruction__slots_add_up),
        JOURNAL_TEST(test_two_writers_at_once__all_arrive),
        JOURNAL_TEST(test_put__long_text__cut_from_the_left),
        JOURNAL_TEST(test_put__suspect__rings_the_bell),
        JOURNAL_TEST(test_off__every_call_does_nothing),
        JOURNAL_TEST(test_claim__all_taken__counted),
        JOURNAL_TEST(test_sizes__last_one_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
