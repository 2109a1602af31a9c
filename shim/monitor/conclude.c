/* SPDX-License-Identifier: MIT
 *
 * What followed from what: consequences of an incident, and which incident the run ended by. Looks back
 * over the whole run each time a report is written; decides nothing about a single death.
 */
#include "mon.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUIET (2 * NNG_SECOND) /* a trainer that leaves later than this went on for a while */

static void why_words(const struct nng_mon *m, const struct nng_tracked *t, struct nng_words *w)
{
    const char *by = t->why_signal_by == m->run.root_pid ? "the trainer" : "its parent";
    const char *by_zh = t->why_signal_by == m->run.root_pid ? "训练主进程" : "其父进程";

    switch (t->why) {
    case NNG_WHY_BY_PARENT:
        snprintf(w->en, sizeof w->en, "terminated by %s (pid %d)", by, t->why_signal_by);
        snprintf(w->zh, sizeof w->zh, "被%s终止 (pid %d)", by_zh, t->why_signal_by);
        break;
    case NNG_WHY_PARENT_GONE:
        snprintf(w->en, sizeof w->en, "ended after its parent was gone");
        snprintf(w->zh, sizeof w->zh, "父进程消失后结束");
        break;
    case NNG_WHY_AFTERMATH:
        snprintf(w->en, sizeof w->en, "lost its connection to a process that was gone");
        snprintf(w->zh, sizeof w->zh, "与已消失的进程失去连接");
        break;
    case NNG_WHY_INTERRUPT:
        snprintf(w->en, sizeof w->en, "interrupted together with the run");
        snprintf(w->zh, sizeof w->zh, "随整个训练一起被中断");
        break;
    case NNG_WHY_MONITOR:
        snprintf(w->en, sizeof w->en, "ended by nnguard (NNGUARD_ON_STALL=end)");
        snprintf(w->zh, sizeof w->zh, "由 nnguard 结束 (NNGUARD_ON_STALL=end)");
        break;
    case NNG_WHY_NONE:
    default:
        w->en[0] = w->zh[0] = '\0';
    }
}

/* The trainer's own death of another cause than its workers' is what the run ended by. */
static bool ended_by_own(const struct nng_run *r, int last)
{
    const struct nng_incident *end = &r->incident[last];

    if (end->ev.who.role != NNG_ROLE_TRAINER || end->ev.kind == NNG_K_STALL ||
        !strcmp(end->verdict.cause, "killed_unknown") ||
        /* C++ ends so when a peer's death breaks its pipe: rather a consequence */
        !strcmp(end->verdict.cause, "worker_abort"))
        return false;
    for (int k = 0; k < r->n_incidents; k++)
        if (k != last && !strcmp(r->incident[k].verdict.cause, end->verdict.cause))
            return false;
    return true;
}

static uint64_t last_of(const struct nng_incident *i)
{
    return i->last_time_ns > i->ev.time_ns ? i->last_time_ns : i->ev.time_ns;
}

/* ---- what the trainer's last words name ---------------------------------------------------------- */
/* Its traceback's message, or else the end of what it printed. */
static bool last_words(struct nng_mon *m, char *out, size_t n)
{
    static char tail[NNG_TAIL_SIZE + 1];
    struct nng_traceback tb = {0};
    size_t len;

    if (!m->model.root || !nng_judge_tail(m, m->model.root, tail))
        return false;
    nng_text_traceback(tail, &tb);
    if (tb.present && tb.last) {
        snprintf(out, n, "%s", tb.message);
        return out[0] != '\0';
    }
    len = strlen(tail);
    snprintf(out, n, "%.*s", (int)n - 1, len < n ? tail : tail + len - (n - 1));
    return out[0] != '\0';
}

static bool names_signal(const char *words, int sig)
{
    static const struct {
        int sig;
        const char *text;
    } said[] = {{SIGSEGV, "Segmentation fault"},
                {SIGBUS, "Bus error"},
                {SIGABRT, "Aborted"},
                {SIGKILL, "signal: Killed"},
                {SIGILL, "Illegal instruction"},
                {SIGFPE, "Floating point exception"}};
    const char *name = nng_signal_name(sig);

    if (name && !strncmp(name, "SIG", 3) && strstr(words, name))
        return true;
    for (size_t i = 0; i < sizeof said / sizeof said[0]; i++)
        if (said[i].sig == sig && strstr(words, said[i].text))
            return true;
    return false;
}

static bool is_of_status(const char *words, const char *number)
{
    static const char *const before[] = {"code", "status", "exit", "with"};
    char around[25];
    size_t n =
        (size_t)(number - words) < sizeof around - 1 ? (size_t)(number - words) : sizeof around - 1;

    memcpy(around, number - n, n);
    around[n] = '\0';
    for (size_t i = 0; i < sizeof before / sizeof before[0]; i++)
        if (strstr(around, before[i]))
            return true;
    return false;
}

/* How strongly the words name it: by pid, by signal, by exit code; 0: not at all. */
static int named(const struct nng_mon *m, const char *words, int k)
{
    const struct nng_incident *i = &m->run.incident[k];
    const struct nng_status *s = &i->ev.status;
    int best = s->signal && names_signal(words, s->signal) ? 2 : 0;

    if (i->ev.who.pid == m->run.root_pid)
        return 0;
    for (const char *p = words; (p = strpbrk(p, "0123456789")) != NULL;) {
        char *end;
        long v = strtol(p, &end, 10);
        bool minus = p > words && p[-1] == '-';
        const struct nng_tracked *t = v > 2 ? nng_model_find(&m->model, (int)v) : NULL;
        if (!minus && (v == i->ev.who.pid || (t && t->incident == k)))
            return 3;
        if (minus && s->signal && v == s->signal)
            best = 2;
        if (!minus && !s->signal && s->code > 1 && v == s->code && !best && is_of_status(words, p))
            best = 1;
        p = end;
    }
    return best;
}

static int named_by_trainer(struct nng_mon *m)
{
    char words[512];
    int best = -1, most = 0;

    if (!last_words(m, words, sizeof words))
        return -1;
    for (int k = 0; k < m->run.n_incidents; k++) {
        int how = named(m, words, k);
        if (how > most || (how && how == most &&
                           m->run.incident[k].ev.time_ns < m->run.incident[best].ev.time_ns)) {
            most = how;
            best = k;
        }
    }
    return best;
}

/* ---- the chain ------------------------------------------------------------------------------------ */
/* After `i` the trainer went on before `later` happened: that one's process was started anew, or the
 * trainer worked on for longer than it takes to use up what was prepared. */
#define DRAINED (10 * NNG_SECOND)
static bool went_on(const struct nng_mon *m, const struct nng_incident *i,
                    const struct nng_incident *later)
{
    uint64_t last = last_of(i);

    if (nng_same_thing(&i->ev, &i->verdict, &later->ev, &later->verdict))
        return false;
    if (later->ev.who.role == NNG_ROLE_WORKER && later->ev.who.birth_ns > last)
        return true;
    return m->progress_ns > last + DRAINED && later->ev.time_ns > last + DRAINED;
}

static int chain_root(struct nng_mon *m)
{
    struct nng_run *r = &m->run;
    const struct nng_tracked *root = m->model.root;
    bool bad = !r->end_boot_ns || r->exit.signal || r->exit.code ||
               (!r->exit.known && !(root && (root->execed || !root->python)));
    int best = -1, different = 0;

    if (!bad || r->n_incidents == 0)
        return -1;
    /* The last incident, then whatever lies shortly before it: the earliest of that chain. */
    for (int k = 0; k < r->n_incidents; k++)
        if (best < 0 || r->incident[k].ev.time_ns > r->incident[best].ev.time_ns)
            best = k;
    if (ended_by_own(r, best))
        return best;
    int by_words = r->n_incidents > 1 ? named_by_trainer(m) : -1;
    if (by_words >= 0)
        return by_words;
    uint64_t at = r->incident[best].ev.time_ns;
    for (bool again = true; again;) {
        again = false;
        for (int k = 0; k < r->n_incidents; k++) {
            const struct nng_incident *i = &r->incident[k];
            if (i->ev.time_ns < at && last_of(i) + NNG_CHAIN >= at &&
                !went_on(m, i, &r->incident[best])) {
                at = i->ev.time_ns;
                different += strcmp(i->verdict.cause, r->incident[best].verdict.cause) != 0;
                best = k;
                again = true;
            }
        }
    }
    r->root_doubtful = different > 0;
    return best;
}

/* Words by which trainers and libraries speak of a worker that is gone. "process" alone is not among them:
 * people process label maps. */
bool nng_judge_of_workers(const char *text)
{
    static const char *const words[] = {
        "worker",        "Worker",        "no longer alive", "died",        "is dead",
        "found dead",    "was killed",    "been killed",     "is killed",   "killed by",
        "timed out",     "exit code",     "exitcode",        "exit status", "terminated",
        "process pool",  "child process", "processes",       "Process ",    "process exited",
        "process ended", "process with",  "process has",     "subprocess"};

    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strstr(text, words[i]))
            return true;
    return false;
}

/* It left by sys.exit: is its last line about workers, or the code theirs? (1 is everybody's.) */
static bool hands_on(struct nng_mon *m, const struct nng_tracked *root)
{
    char *tail = malloc(NNG_TAIL_SIZE + 1), *line;
    bool of_workers = true; /* where its words are not known, nothing is said of them */

    for (int k = 0; k < m->run.n_incidents; k++) {
        const struct nng_status *s = &m->run.incident[k].ev.status;
        if (root->left_code != 1 && s->known &&
            (s->signal ? 128 + s->signal == root->left_code || 256 - s->signal == root->left_code
                       : s->code == root->left_code)) {
            free(tail);
            return true;
        }
    }
    if (tail && nng_judge_tail(m, root, tail)) {
        size_t n = strlen(tail);
        while (n > 0 && strchr("\n ", tail[n - 1]))
            tail[--n] = '\0';
        line = strrchr(tail, '\n');
        of_workers = nng_judge_of_workers(line ? line + 1 : tail);
    }
    free(tail);
    return of_workers;
}

/* The trainer went on after the last death and then failed by an error of its own, whose words do not
 * speak of workers: that death was handled, and is not what the run failed of. */
static bool failed_by_itself(struct nng_mon *m, const struct nng_tracked *root)
{
    struct nng_traceback tb = {0};
    uint64_t last = 0;
    bool witnesses = true; /* who only lost the other end of a pipe, as the trainer tore it down */

    if (!root || !root->left || root->left_code == 0 || root->judge_at)
        return false;
    for (int k = 0; k < m->run.n_incidents; k++) {
        const struct nng_incident *i = &m->run.incident[k];
        uint64_t at = last_of(i);
        if (i->ev.kind == NNG_K_STALL || i->ev.who.pid == root->pid)
            return false;
        if (at > last)
            last = at;
        witnesses = witnesses && !i->ev.status.signal && nng_text_lost_peer(&i->ev.tb);
    }
    if (!nng_judge_traceback(m, root, &tb) || !tb.last)
        return root->left_ns > last + QUIET && nng_stall_went_on(m, last + NNG_SECOND) &&
               !hands_on(m, root);
    if (root->left_ns < last + NNG_SECOND / 2 && !witnesses)
        return false;
    return !nng_judge_is_aftermath(&tb) && strcmp(tb.type, "TimeoutError") != 0 &&
           strcmp(tb.type, "Empty") != 0 && !nng_judge_of_workers(tb.message);
}

void nng_judge_conclude(struct nng_mon *m)
{
    struct nng_run *r = &m->run;
    struct nng_tracked *root = m->model.root;

    if (root && root->status.known && !(m->live && !strcmp(root->status.source, NNG_NO_RECORD)))
        r->exit = root->status;
    r->root_doubtful = false;
    r->root = failed_by_itself(m, root) ? -1 : chain_root(m);
    for (int k = 0; k < r->n_incidents; k++)
        r->incident[k].n_consequences = 0;
    for (size_t i = 0; i < m->model.n; i++) {
        const struct nng_tracked *t = m->model.t[i];
        struct nng_incident *of = NULL;
        if (!t->dead || t->why == NNG_WHY_NONE || t->role == NNG_ROLE_HELPER)
            continue;
        for (int k = 0; k < r->n_incidents; k++)
            if (r->incident[k].ev.time_ns <= t->death_ns + 5 * NNG_SECOND &&
                (!of || r->incident[k].ev.time_ns < of->ev.time_ns) &&
                t->death_ns <= r->incident[k].ev.time_ns + 10 * NNG_CHAIN)
                of = &r->incident[k];
        if (!of || of->n_consequences == NNG_CONSEQUENCES)
            continue;
        struct nng_consequence *c = &of->consequence[of->n_consequences++];
        c->pid = t->pid;
        c->signal = t->status.signal;
        c->code = t->status.code;
        why_words(m, t, &c->why);
    }
}
