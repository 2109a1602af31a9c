/* SPDX-License-Identifier: MIT
 *
 * The block on stderr at the moment of an incident: who and why, the proof, where, what to do, how
 * sure, where to read more. Five to ten lines; the order of `weight` says what may go first when
 * they do not fit into one write.
 */
#include "part.h"

#include <stdio.h>
#include <string.h>

enum { /* weights: what is left out first has the highest */
       KEEP = 0,
       CURE = 1,
       PROOF = 2, /* + its index */
       DOUBT = 4,
       OTHER_CURE = 5,
       WHERE = 6,
       COUNT = 7,
};

bool nng_details_path(char *out, size_t n, const struct nng_run *r)
{
    snprintf(out, n, "%s/report.txt", r->dir);
    return r->dir[0] != 0;
}

/* ---- advice
 * --------------------------------------------------------------------------------------- */

#define BLOCK_LINES 10
#define LABEL_COLUMNS 7
#define COMMAND_COLUMNS 42 /* remarks are aligned behind commands up to this */

static enum nng_word label_of(const struct nng_fix *f, const struct nng_verdict *v)
{
    if (f->workaround)
        return W_ELSE;
    return v->confidence <= NNG_UNKNOWN ? W_NEXT : W_FIX;
}

static void say_label(char *out, size_t n, const char *label)
{
    int pad = LABEL_COLUMNS - nng_columns(label);
    snprintf(out, n, "%s%*s", label, pad > 0 ? pad : 1, "");
}

/* A root fix is explained in brackets, a way round by its text and its price. */
static void say_remark(char *out, size_t n, const struct nng_fix *f, enum nng_lang lang)
{
    const char *text = nng_pick(&f->text, lang), *cost = nng_pick(&f->cost, lang);
    bool brackets = !f->workaround && f->command[0] && *text;
    snprintf(out, n, "%s%s%s%s%s", brackets ? nng_word(W_OPEN, lang) : "", text,
             *text && *cost ? nng_word(W_SEMICOLON, lang) : "", cost,
             brackets ? nng_word(W_CLOSE, lang) : "");
}

struct advice {
    char label[64], command[384], remark[1100];
};

/* Commands of one screen share a column, unless one is so long that it would push all others out.
 */
static int command_column(const struct nng_verdict *v)
{
    int widest = 0;
    for (int i = 0; i < v->n_fix && i < NNG_FIXES; i++) {
        int c = nng_columns(v->fix[i].command);
        if (c > widest && c <= COMMAND_COLUMNS)
            widest = c;
    }
    return widest;
}

/* Label, command and remark on one line, aligned if that fits, else close together; false: too
 * wide. */
static bool say_fix(char *out, size_t n, const struct advice *a, int column)
{
    const int width = NNG_COLUMNS - (int)strlen(NNG_PREFIX);
    if (!a->command[0] || !a->remark[0]) {
        snprintf(out, n, "%s%s%s", a->label, a->command, a->remark);
        return a->command[0] || nng_columns(out) <= width; /* a command is never broken */
    }
    int pad = column - nng_columns(a->command);
    for (int close = pad > 0 ? 0 : 1; close < 2; close++) {
        snprintf(out, n, "%s%s%*s%s", a->label, a->command, close ? 2 : pad + 2, "", a->remark);
        if (nng_columns(out) <= width)
            return true;
    }
    return false;
}

/* One fix as one line, or with its remark below it. */
static void add_fix(struct nng_lines *l, const struct nng_fix *f, const struct nng_verdict *v,
                    enum nng_lang lang, bool first, int column)
{
    struct advice a = {.label = ""};
    char line[sizeof a + 64];
    enum nng_tint tint = first && !f->workaround ? NNG_CURE : NNG_PLAIN;
    int weight = first ? CURE : OTHER_CURE, before = l->n;
    say_label(a.label, sizeof a.label, nng_word(label_of(f, v), lang));
    say_remark(a.remark, sizeof a.remark, f, lang);
    nng_clean(a.command, sizeof a.command, f->command);
    if (say_fix(line, sizeof line, &a, column)) {
        nng_lines_add(l, weight, tint, line);
        return;
    }
    if (a.command[0]) {
        snprintf(line, sizeof line, "%s%s", a.label, a.command);
        nng_lines_add(l, weight, tint, line);
        snprintf(line, sizeof line, "%*s%s", LABEL_COLUMNS, "", a.remark);
    }
    nng_lines_wrap(l, weight, line, LABEL_COLUMNS);
    for (int i = before; i < l->n; i++)
        l->line[i].tint = tint;
}

/* At most three pieces of advice, and after the first only what fits into `room` lines. */
void nng_add_advice(struct nng_lines *l, const struct nng_verdict *v, enum nng_lang lang, int max,
                    int room)
{
    int column = command_column(v), shown = 0, end = l->n + room;
    for (int i = 0; i < v->n_fix && i < NNG_FIXES && shown < max; i++) {
        int before = l->n;
        add_fix(l, &v->fix[i], v, lang, shown == 0, column);
        if (l->n > end && shown > 0)
            l->n = before;
        else
            shown++;
    }
}

/* ---- the other lines
 * ------------------------------------------------------------------------------- */

static void add_proof(struct nng_lines *l, const struct nng_verdict *v, enum nng_lang lang)
{
    char line[NNG_LINE_MAX];
    for (int i = 0; i < v->n_proof && i < 3; i++) {
        snprintf(line, sizeof line, "  %s", nng_pick(&v->proof[i], lang));
        nng_lines_wrap(l, PROOF + i, line, 4);
    }
}

/* Has the proof named this place already? */
static bool says_where(const struct nng_verdict *v, const char *where, enum nng_lang lang)
{
    for (int i = 0; i < v->n_proof && i < 3; i++)
        if (strstr(nng_pick(&v->proof[i], lang), where))
            return true;
    return false;
}

/* A caller that no longer fits goes on a line of its own. */
static void add_where(struct nng_lines *l, const struct nng_incident *i, enum nng_lang lang)
{
    char line[NNG_LINE_MAX] = "  ", below[NNG_LINE_MAX];
    nng_say_where(line + 2, sizeof line - 2, &i->ev, lang);
    if (!line[2] || says_where(&i->verdict, line + 2 + strlen(nng_word(W_IN, lang)), lang))
        return;
    char *caller = strstr(line, "  <-  ");
    if (!caller || nng_columns(line) <= NNG_COLUMNS - (int)strlen(NNG_PREFIX)) {
        nng_lines_add(l, WHERE, NNG_PLAIN, line);
        return;
    }
    snprintf(below, sizeof below, "%*s%s", LABEL_COLUMNS + 2, "", caller + 2);
    *caller = 0;
    nng_lines_add(l, WHERE, NNG_PLAIN, line);
    nng_lines_add(l, WHERE, NNG_PLAIN, below);
}

static void add_count(struct nng_lines *l, const struct nng_run *r, const struct nng_incident *i,
                      enum nng_lang lang)
{
    char line[256], phrase[200], n[16], at[16];
    if (i->count <= 1)
        return;
    snprintf(n, sizeof n, "%u", i->count);
    if (i->last_time_ns)
        SAY(phrase, lang, W_TIMES_LAST, n,
            nng_say_time(at, sizeof at, r, i->last_time_ns, NNG_CLOCK));
    else
        SAY(phrase, lang, W_TIMES, n);
    snprintf(line, sizeof line, "  %s", phrase);
    nng_lines_add(l, COUNT, NNG_PLAIN, line);
}

/* "certain; details: /tmp/...", on two lines where one is too long. */
static void add_last(struct nng_lines *l, const struct nng_run *r, const struct nng_verdict *v,
                     enum nng_lang lang)
{
    char sure[700], path[600], details[700], line[NNG_LINE_MAX + 500];
    const char *doubt = v->confidence == NNG_CERTAIN ? "" : nng_pick(&v->doubt, lang);
    snprintf(sure, sizeof sure, "%s%s%s", nng_say_confidence(v->confidence, lang),
             *doubt ? nng_word(W_COLON, lang) : "", doubt);
    if (nng_details_path(path, sizeof path, r))
        SAY(details, lang, W_DETAILS, path);
    else
        snprintf(details, sizeof details, "%s", nng_word(W_NO_DETAILS, lang));
    snprintf(line, sizeof line, "%s%s%s", sure, nng_word(W_SEMICOLON, lang), details);
    /* A path may be as long as it likes; only a doubt makes a line of its own worth while. */
    if (!*doubt || nng_columns(line) <= NNG_COLUMNS - (int)strlen(NNG_PREFIX)) {
        nng_lines_add(l, KEEP, NNG_PLAIN, line);
        return;
    }
    int before = l->n;
    nng_lines_wrap(l, DOUBT, sure, 2);
    l->line[before < l->n ? before : l->n - 1].weight = KEEP; /* the word itself is always there */
    nng_lines_add(l, KEEP, NNG_PLAIN, details);
}

void nng_build_block(struct nng_lines *l, const struct nng_run *r, const struct nng_incident *i,
                     enum nng_lang lang)
{
    char line[NNG_LINE_MAX];
    nng_say_first(line, sizeof line, i, lang);
    nng_lines_add(l, KEEP, NNG_ALARM, line);
    add_proof(l, &i->verdict, lang);
    add_where(l, i, lang);
    add_count(l, r, i, lang);
    nng_add_advice(l, &i->verdict, lang, 3, BLOCK_LINES - 1 - l->n);
    add_last(l, r, &i->verdict, lang);
}

size_t nng_report_block(char *out, const struct nng_run *r, const struct nng_incident *i,
                        const struct nng_style *s)
{
    struct nng_lines l = {.n = 0};
    nng_build_block(&l, r, i, nng_style_lang(s));
    return nng_lines_write(&l, s, NNG_PREFIX, out, NNG_BLOCK_MAX);
}
