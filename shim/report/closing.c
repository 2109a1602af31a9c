/* SPDX-License-Identifier: MIT
 *
 * The last words of a run, and the reminder of one that stands still. What is said of the run's end
 * is no more than what is known: an incident that is not tied to the end is not called its cause,
 * and a run that ended well is not called failed.
 */
#include "part.h"

#include <stdio.h>
#include <string.h>

enum ending { ENDED_BADLY, ENDED_WELL, ENDED_BY_PERSON };

/* Ctrl-C leaves SIGINT, or 130 where a shell or launcher stands between. */
static enum ending ending_of(const struct nng_run *r)
{
    if (!r->exit.known)
        return ENDED_BADLY;
    if (r->exit.signal == 2 || r->exit.signal == 3 || (!r->exit.signal && r->exit.code == 130))
        return ENDED_BY_PERSON;
    return r->exit.signal || r->exit.code ? ENDED_BADLY : ENDED_WELL;
}

/* The incident that the closing block speaks of: the root one, else the latest. */
static const struct nng_incident *spoken_of(const struct nng_run *r)
{
    if (r->n_incidents <= 0)
        return NULL;
    if (r->root >= 0 && r->root < r->n_incidents)
        return &r->incident[r->root];
    return &r->incident[r->n_incidents - 1];
}

/* "worker 3 of 6, 14:03:07" */
static void say_when(char *out, size_t n, const struct nng_run *r, const struct nng_incident *i,
                     enum nng_lang lang)
{
    char who[128], at[16];
    nng_say_who(who, sizeof who, &i->ev.who, lang);
    nng_say_time(at, sizeof at, r, i->ev.time_ns, NNG_CLOCK);
    if (i->ev.kind == NNG_K_STALL && i->ev.who.pid <= 0)
        snprintf(out, n, "%s", at);
    else
        nng_say(out, n, lang, W_WHEN, (const char *const[]){who, at, ""});
}

/* That it happened is one thing, that the run ended by it another. */
static enum nng_confidence sure_of(const struct nng_run *r, const struct nng_incident *i)
{
    enum nng_confidence c = i->verdict.confidence;
    return r->root_doubtful && c > NNG_LIKELY ? NNG_LIKELY : c;
}

static enum nng_word failed_word(const struct nng_run *r, const struct nng_incident *i)
{
    static const enum nng_word words[] = {[NNG_NO] = W_CL_UNKNOWN,
                                          [NNG_UNKNOWN] = W_CL_UNKNOWN,
                                          [NNG_POSSIBLE] = W_CL_POSSIBLE,
                                          [NNG_LIKELY] = W_CL_LIKELY,
                                          [NNG_CERTAIN] = W_CL_FAILED};
    enum nng_confidence c = sure_of(r, i);
    if (i->ev.kind == NNG_K_STALL && c > NNG_UNKNOWN)
        return c == NNG_CERTAIN ? W_CL_STALL : W_CL_STALL_UNSURE;
    return words[c <= NNG_CERTAIN ? c : NNG_UNKNOWN];
}

/* "/dev/shm was full"; where the cause has no such short form, "worker 2 of 3 died: it ...". True then:
 * the process is named already. */
static bool say_because(char *out, size_t n, const struct nng_incident *i, enum nng_lang lang)
{
    char who[128];
    const char *why = nng_pick(&i->verdict.why, lang),
               *brief = nng_pick(&i->verdict.short_why, lang);
    /* the English one decides: Chinese has no tense, so there both may be the same */
    bool has_brief =
        i->verdict.short_why.en[0] && strcmp(i->verdict.short_why.en, i->verdict.why.en) != 0;
    if (has_brief || i->ev.kind == NNG_K_STALL) {
        snprintf(out, n, "%s", *brief ? brief : why);
        return false;
    }
    nng_say_who(who, sizeof who, &i->ev.who, lang);
    nng_say(out, n, lang, i->ev.kind == NNG_K_DEATH ? W_BECAUSE_DIED : W_BECAUSE_FAILED,
            (const char *const[]){who, why, ""});
    return true;
}

/* Of the trainer's own death nothing follows that could be taken for a cause; and where there are
 * other incidents, not everything follows from this one. */
static bool has_consequences(const struct nng_run *r, const struct nng_incident *i)
{
    return i->ev.who.role != NNG_ROLE_TRAINER && i->verdict.confidence > NNG_UNKNOWN &&
           r->n_incidents + r->n_beyond <= 1;
}

/* The run failed, or stood still, by this incident. */
static void say_failed(char *out, size_t n, const struct nng_run *r, const struct nng_incident *i,
                       enum nng_lang lang)
{
    char when[200], because[800];
    if (say_because(because, sizeof because, i, lang))
        nng_say_time(when, sizeof when, r, i->ev.time_ns, NNG_CLOCK);
    else
        say_when(when, sizeof when, r, i, lang);
    nng_say(out, n, lang, failed_word(r, i), (const char *const[]){because, when, ""});
    if (has_consequences(r, i)) {
        size_t len = strlen(out);
        snprintf(out + len, n - len, "%s", nng_word(W_CL_CONSEQUENCE, lang));
    }
}

static void say_end_status(char *out, size_t n, const struct nng_run *r, enum nng_lang lang)
{
    nng_say_status(out, n, &r->exit, lang);
    if (!out[0])
        snprintf(out, n, "%s", nng_word(W_END_UNKNOWN, lang));
}

/* The run ended, and this incident is not tied to its end. */
static void say_apart(char *out, size_t n, const struct nng_run *r, const struct nng_incident *i,
                      enum ending end, enum nng_lang lang)
{
    char who[128], at[16], status[64];
    bool death = i->ev.kind == NNG_K_DEATH;
    nng_say_who(who, sizeof who, &i->ev.who, lang);
    nng_say_time(at, sizeof at, r, i->ev.time_ns, NNG_CLOCK);
    say_end_status(status, sizeof status, r, lang);
    enum nng_word word = end == ENDED_WELL        ? death ? W_CL_WELL : W_CL_WELL_STALL
                         : end == ENDED_BY_PERSON ? W_CL_INTERRUPTED
                         : death                  ? W_CL_APART
                                                  : W_CL_APART_STALL;
    nng_say(out, n, lang, word,
            (const char *const[]){who, at, nng_pick(&i->verdict.why, lang), status, ""});
}

void nng_say_end(char *out, size_t n, const struct nng_run *r, enum nng_lang lang)
{
    char at[16];
    const struct nng_incident *i = spoken_of(r);
    if (!i) {
        uint64_t last = r->end_boot_ns ? r->end_boot_ns : r->start_boot_ns;
        nng_say(out, n, lang, r->ended_silently ? W_CL_SILENT : W_CL_NOTHING,
                (const char *const[]){nng_say_time(at, sizeof at, r, last, NNG_CLOCK), ""});
        return;
    }
    enum ending end = ending_of(r);
    bool tied = r->root >= 0 && r->root < r->n_incidents;
    /* A standstill that somebody ended with Ctrl-C is still what the run died of. */
    if (tied && (end == ENDED_BADLY || (end == ENDED_BY_PERSON && i->ev.kind == NNG_K_STALL)))
        say_failed(out, n, r, i, lang);
    else
        say_apart(out, n, r, i, end, lang);
}

static void add_more(struct nng_lines *l, const struct nng_run *r, enum nng_lang lang)
{
    int more = r->n_incidents - 1 + (r->n_beyond > 0 ? r->n_beyond : 0);
    char line[128], n[16];
    if (more <= 0 || !r->dir[0])
        return;
    snprintf(n, sizeof n, "%d", more);
    nng_lines_add(l, 3, NNG_PLAIN, SAY(line, lang, more == 1 ? W_CL_MORE_1 : W_CL_MORE, n));
}

static void add_details(struct nng_lines *l, const struct nng_run *r, const struct nng_incident *i,
                        enum nng_lang lang)
{
    char path[600], line[700];
    const char *sure = i ? nng_say_confidence(sure_of(r, i), lang) : "";
    if (nng_details_path(path, sizeof path, r))
        snprintf(line, sizeof line, "%s%s", *sure ? sure : "",
                 *sure ? nng_word(W_SEMICOLON, lang) : "");
    else
        snprintf(line, sizeof line, "%s", sure);
    if (r->dir[0]) {
        size_t len = strlen(line);
        nng_say(line + len, sizeof line - len, lang, W_DETAILS, (const char *const[]){path, ""});
    }
    if (line[0])
        nng_lines_add(l, 1, NNG_PLAIN, line);
}

size_t nng_report_closing(char *out, const struct nng_run *r, const struct nng_style *s)
{
    struct nng_lines l = {.n = 0};
    enum nng_lang lang = nng_style_lang(s);
    const struct nng_incident *i = spoken_of(r);
    char line[NNG_LINE_MAX];
    nng_say_end(line, sizeof line, r, lang);
    nng_lines_add(&l, 0, NNG_ALARM, line);
    if (i)
        nng_add_advice(&l, &i->verdict, lang, 1, 2);
    add_more(&l, r, lang);
    add_details(&l, r, i, lang);
    return nng_lines_write(&l, s, NNG_PREFIX, out, NNG_BLOCK_MAX);
}

size_t nng_report_reminder(char *out, const struct nng_run *r, const struct nng_incident *i,
                           const struct nng_style *s)
{
    struct nng_lines l = {.n = 0};
    enum nng_lang lang = nng_style_lang(s);
    char line[2 * NNG_LINE_MAX], at[16], minutes[48], n[16], part[700], path[600];
    uint64_t until = r->end_boot_ns > i->ev.time_ns ? r->end_boot_ns : i->last_time_ns;
    uint64_t now = nng_boot_now();
    if (now > until)
        until = now;
    uint64_t span = until > i->ev.time_ns ? until - i->ev.time_ns : 0;
    snprintf(n, sizeof n, "%llu", (unsigned long long)(span / 60000000000ull));
    SAY(minutes, lang, W_MINUTES, n);
    SAY(line, lang, W_REMINDER, nng_say_time(at, sizeof at, r, i->ev.time_ns, NNG_CLOCK), minutes,
        nng_pick(&i->verdict.why, lang));
    size_t len = strlen(line);
    if (i->count > 1) {
        snprintf(n, sizeof n, "%u", i->count);
        SAY(part, lang, W_TIMES, n);
        len += (size_t)snprintf(line + len, sizeof line - len, "%s%s", nng_word(W_SEMICOLON, lang),
                                part);
    }
    if (nng_details_path(path, sizeof path, r) && len < NNG_LINE_MAX) {
        SAY(part, lang, W_DETAILS, path);
        snprintf(line + len, sizeof line - len, "%s%s", nng_word(W_SEMICOLON, lang), part);
    }
    nng_lines_add(&l, 0, NNG_ALARM, line);
    return nng_lines_write(&l, s, NNG_PREFIX, out, NNG_BLOCK_MAX);
}
