/* SPDX-License-Identifier: MIT
 *
 * Asks every cause and keeps the best answer; the words' plumbing. The causes come from the linker
 * section nng_causes. [reap], no state.
 */
#include "cause.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const struct nng_cause *const __start_nng_causes[];
extern const struct nng_cause *const __stop_nng_causes[];

#define MAX_CAUSES 64

static int by_id(const void *a, const void *b)
{
    const struct nng_cause *const *x = a, *const *y = b;
    return strcmp((*x)->id, (*y)->id);
}

const struct nng_cause *const *nng_causes_all(size_t *n)
{
    static const struct nng_cause *sorted[MAX_CAUSES];
    size_t count = (size_t)(__stop_nng_causes - __start_nng_causes);

    if (count > MAX_CAUSES)
        count = MAX_CAUSES;
    if (!sorted[0]) {
        for (size_t i = 0; i < count; i++)
            sorted[i] = __start_nng_causes[i];
        qsort(sorted, count, sizeof sorted[0], by_id);
    }
    *n = count;
    return sorted;
}

/* Does (conf, rank) go before the best so far? */
static bool better(enum nng_confidence conf, int rank, enum nng_confidence best, int best_rank)
{
    bool why = rank < NNG_RANK_SHAPE && conf >= NNG_LIKELY;
    bool best_why = best_rank < NNG_RANK_SHAPE && best >= NNG_LIKELY;

    if (best == NNG_NO)
        return conf != NNG_NO;
    if (conf == NNG_NO)
        return false;
    if (why != best_why)
        return why;
    return conf != best ? conf > best : rank < best_rank;
}

void nng_causes_decide(const struct nng_evidence *ev, struct nng_verdict *out)
{
    size_t n = 0;
    const struct nng_cause *const *all = nng_causes_all(&n);
    struct nng_verdict *v = malloc(sizeof *v);
    int best_rank = 0;

    memset(out, 0, sizeof *out);
    out->cause = "unknown";
    for (size_t i = 0; v && i < n; i++) {
        memset(v, 0, sizeof *v);
        v->cause = all[i]->id;
        v->confidence = all[i]->match(ev, v);
        if (better(v->confidence, all[i]->rank, out->confidence, best_rank)) {
            *out = *v;
            best_rank = all[i]->rank;
        }
    }
    if (out->confidence == NNG_NO)
        out->confidence = NNG_UNKNOWN;
    if (!out->short_why.en[0])
        out->short_why = out->why;
    /* The first line is read alone: what is only possible must not sound like a fact there. */
    if (out->confidence == NNG_POSSIBLE && v) {
        memmove(&v->why, &out->why, sizeof v->why);
        snprintf(out->why.en, sizeof out->why.en, "perhaps %s", nng_text_short(v->why.en, 300));
        snprintf(out->why.zh, sizeof out->why.zh, "可能是%s", nng_text_short(v->why.zh, 300));
    }
    if (out->confidence == NNG_CERTAIN)
        memset(&out->doubt, 0, sizeof out->doubt);
    free(v);
}

/* ---- words --------------------------------------------------------------------------------- */

static void words(struct nng_words *w, const char *en, const char *zh, va_list ap)
    __attribute__((format(printf, 2, 0), format(printf, 3, 0)));

static void words(struct nng_words *w, const char *en, const char *zh, va_list ap)
{
    char raw[1024];
    va_list again;

    va_copy(again, ap);
    vsnprintf(raw, sizeof raw, en, ap);
    nng_text_clean_line(w->en, sizeof w->en, raw, strlen(raw));
    vsnprintf(raw, sizeof raw, zh, again);
    nng_text_clean_line(w->zh, sizeof w->zh, raw, strlen(raw));
    va_end(again);
}

#define FILL(target)                                                                               \
    do {                                                                                           \
        va_list ap;                                                                                \
        va_start(ap, zh);                                                                          \
        words(target, en, zh, ap);                                                                 \
        va_end(ap);                                                                                \
    } while (0)

void nng_v_why(struct nng_verdict *v, const char *en, const char *zh, ...)
{
    FILL(&v->why);
}

void nng_v_short(struct nng_verdict *v, const char *en, const char *zh, ...)
{
    FILL(&v->short_why);
}

void nng_v_proof(struct nng_verdict *v, const char *en, const char *zh, ...)
{
    if (v->n_proof < NNG_PROOFS)
        FILL(&v->proof[v->n_proof++]);
}

void nng_v_doubt(struct nng_verdict *v, const char *en, const char *zh, ...)
{
    FILL(&v->doubt);
}

static struct nng_fact *fact(struct nng_verdict *v, const char *name, const char *source)
{
    struct nng_fact *f = NULL;

    for (int i = 0; i < v->n_fact; i++)
        if (strcmp(v->fact[i].name, name) == 0)
            return NULL;
    if (v->n_fact < NNG_FACTS) {
        f = &v->fact[v->n_fact++];
        memset(f, 0, sizeof *f);
        snprintf(f->name, sizeof f->name, "%s", name);
        nng_text_clean_line(f->source, sizeof f->source, source, strlen(source));
    }
    return f;
}

void nng_v_fact_int(struct nng_verdict *v, const char *name, int64_t value, const char *source)
{
    struct nng_fact *f = fact(v, name, source);

    if (f) {
        f->type = value < 0 ? NNG_FT_NULL : NNG_FT_INT;
        f->num = value < 0 ? 0 : value;
    }
}

void nng_v_fact_str(struct nng_verdict *v, const char *name, const char *value, const char *source)
{
    struct nng_fact *f = fact(v, name, source);

    if (f) {
        f->type = value && *value ? NNG_FT_STR : NNG_FT_NULL;
        if (value)
            nng_text_clean_line(f->str, sizeof f->str, value, strlen(value));
    }
}

struct nng_fix *nng_v_fix(struct nng_verdict *v, bool workaround, const char *en, const char *zh,
                          ...)
{
    static _Thread_local struct nng_fix scratch;
    struct nng_fix *f = v->n_fix < NNG_FIXES ? &v->fix[v->n_fix++] : &scratch;

    memset(f, 0, sizeof *f);
    f->workaround = workaround;
    FILL(&f->text);
    return f;
}

void nng_fix_command(struct nng_fix *f, const char *format, ...)
{
    char raw[1024];
    va_list ap;

    va_start(ap, format);
    vsnprintf(raw, sizeof raw, format, ap);
    va_end(ap);
    nng_text_clean_line(f->command, sizeof f->command, raw, strlen(raw));
}

void nng_fix_cost(struct nng_fix *f, const char *en, const char *zh, ...)
{
    FILL(&f->cost);
}
