/* SPDX-License-Identifier: MIT
 *
 * Phrases about one incident that the block, the closing block, report.txt and report.json share,
 * so that the same thing has the same words everywhere.
 */
#include "part.h"

#include <stdio.h>
#include <string.h>

static const char *number(char *buf, size_t n, int value)
{
    snprintf(buf, n, "%d", value);
    return buf;
}

void nng_say_who(char *out, size_t n, const struct nng_who *w, enum nng_lang lang)
{
    char a[16], b[16], name[sizeof w->name];
    nng_clean(name, sizeof name, w->name);
    const char *args[] = {number(a, sizeof a, w->ordinal), number(b, sizeof b, w->of), ""};
    enum nng_word word = W_A_WORKER;
    if (w->role == NNG_ROLE_TRAINER) {
        word = W_THE_TRAINER;
    } else if (w->role == NNG_ROLE_HELPER) {
        word = W_HELPER;
        args[0] = name[0] ? name : "?";
    } else if (w->ordinal > 0) {
        word = w->of > 0 ? W_WORKER_OF : W_WORKER_N;
    }
    nng_say(out, n, lang, word, args);
}

void nng_say_status(char *out, size_t n, const struct nng_status *st, enum nng_lang lang)
{
    char a[16];
    out[0] = 0;
    if (!st->known)
        return;
    if (st->signal)
        snprintf(out, n, "%s", nng_signal_name(st->signal));
    else
        nng_say(out, n, lang, W_EXIT_STATUS,
                (const char *const[]){number(a, sizeof a, st->code), ""});
}

static void append(char *out, size_t n, const char *text)
{
    size_t len = strlen(out);
    snprintf(out + len, n - len, "%s", text);
}

/* "pid 4711, rank 1, SIGBUS"; the signal is left out where `why` already names it. */
static void say_details(char *out, size_t n, const struct nng_evidence *ev, const char *why,
                        enum nng_lang lang)
{
    char a[16], part[64];
    nng_say(out, n, lang, W_PID, (const char *const[]){number(a, sizeof a, ev->who.pid), ""});
    if (ev->who.rank >= 0) {
        append(out, n, nng_word(W_COMMA, lang));
        append(out, n, SAY(part, lang, W_RANK, number(a, sizeof a, ev->who.rank)));
    }
    nng_say_status(part, sizeof part, &ev->status, lang);
    if (part[0] && !strstr(why, part)) {
        append(out, n, nng_word(W_COMMA, lang));
        append(out, n, part);
    }
}

void nng_say_first(char *out, size_t n, const struct nng_incident *i, enum nng_lang lang)
{
    char who[128], details[256];
    const struct nng_evidence *ev = &i->ev;
    const char *why = nng_pick(&i->verdict.why, lang);
    if (ev->kind == NNG_K_STALL) {
        nng_say(out, n, lang, W_STANDS_STILL, (const char *const[]){why, ""});
        return;
    }
    nng_say_who(who, sizeof who, &ev->who, lang);
    say_details(details, sizeof details, ev, why, lang);
    bool killed = ev->status.known && ev->status.signal == 9 && ev->who.role == NNG_ROLE_TRAINER &&
                  strncmp(why, "killed", 6) != 0;
    enum nng_word word = ev->kind == NNG_K_FAILURE ? W_FAILED : killed ? W_KILLED : W_DIED;
    nng_say(out, n, lang, word, (const char *const[]){who, details, why, ""});
}

const char *nng_say_confidence(enum nng_confidence c, enum nng_lang lang)
{
    static const enum nng_word names[] = {[NNG_NO] = W_UNKNOWN,
                                          [NNG_UNKNOWN] = W_UNKNOWN,
                                          [NNG_POSSIBLE] = W_POSSIBLE,
                                          [NNG_LIKELY] = W_LIKELY,
                                          [NNG_CERTAIN] = W_CERTAIN};
    return nng_word(c <= NNG_CERTAIN ? names[c] : W_UNKNOWN, lang);
}

/* ---- where
 * ---------------------------------------------------------------------------------------- */

/* Everything up to site-packages or the standard library's folder tells the reader nothing; of what
 * is left, the first folder and the last two parts do: "batchgenerators/.../nondet.py:71 producer".
 */
static void short_frame(char *out, size_t n, const char *frame)
{
    static const char *const marks[] = {"site-packages/", "dist-packages/"};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        const char *p = strstr(frame, marks[i]);
        if (p)
            frame = p + strlen(marks[i]);
    }
    const char *lib = strstr(frame, "/lib/python");
    const char *behind = lib ? strchr(lib + 11, '/') : NULL;
    if (behind)
        frame = behind + 1;
    size_t path = strcspn(frame, " ");
    const char *first = memchr(frame, '/', path), *last = memrchr(frame, '/', path);
    if (*frame == '/') /* neither the package's nor the library's: its end tells most */
        first = frame - 1;
    if (path > 40 && first && last > first + 1)
        snprintf(out, n, "%.*s…%s", (int)(first + 1 - frame), frame, last);
    else
        snprintf(out, n, "%s", frame);
}

/* Machinery of the standard library, which names no culprit. */
static bool is_plumbing(const char *frame)
{
    return strstr(frame, "/multiprocessing/") || strstr(frame, "/threading.py") ||
           strstr(frame, "/concurrent/futures/") || strstr(frame, "/runpy.py") ||
           strstr(frame, "<frozen") || strstr(frame, "<string>");
}

/* Where the worker began. What lies outside of it, in a forked child, is the trainer's stack. */
static bool is_entry(const char *frame)
{
    return strstr(frame, "/multiprocessing/process.py") || strstr(frame, "/threading.py") ||
           strstr(frame, "/concurrent/futures/");
}

/* The innermost frame that is nobody's plumbing, behind the first. */
static const char *outer_frame(const struct nng_stack *st)
{
    for (int i = 1; i < st->n_python && i < 16 && !is_entry(st->python[i]); i++)
        if (!is_plumbing(st->python[i]))
            return st->python[i];
    return NULL;
}

void nng_say_where(char *out, size_t n, const struct nng_evidence *ev, enum nng_lang lang)
{
    char a[200], b[200], user[400];
    const struct nng_traceback *tb = &ev->tb;
    const char *inner = NULL, *outer = NULL;
    /* One that it went on after tells where it was then, not where it ended. */
    bool survived = tb->after && !tb->own && !tb->background_worker && (!tb->top || tb->logged);
    out[0] = 0;
    if (ev->stack.n_python > 0) {
        inner = ev->stack.python[0];
        outer = outer_frame(&ev->stack);
    } else if (ev->tb.present && !survived && (ev->tb.origin[0] || ev->tb.file[0])) {
        snprintf(user, sizeof user, "%s:%d %s", ev->tb.file, ev->tb.line, ev->tb.func);
        inner = ev->tb.origin[0] ? ev->tb.origin : user;
        outer = ev->tb.file[0] ? user : NULL;
    } else if (ev->stack.culprit >= 0 && ev->stack.culprit < ev->stack.n && ev->stack.n <= 48) {
        const struct nng_frame *f = &ev->stack.frame[ev->stack.culprit];
        const char *base = strrchr(f->module, '/');
        snprintf(out, n, "%s%s  (%s+0x%llx)", nng_word(W_IN, lang), f->symbol[0] ? f->symbol : "?",
                 base ? base + 1 : f->module, (unsigned long long)f->offset);
        return;
    }
    if (!inner)
        return;
    short_frame(a, sizeof a, inner);
    if (outer)
        short_frame(b, sizeof b, outer);
    bool two = outer && strcmp(a, b) != 0;
    snprintf(out, n, "%s%s%s%s", nng_word(W_IN, lang), a, two ? "  <-  " : "", two ? b : "");
}
