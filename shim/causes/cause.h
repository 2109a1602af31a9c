/* SPDX-License-Identifier: MIT
 *
 * A cause is one file shim/causes/<id>.c: a pure predicate over the evidence and the words that
 * follow from it, in every language. Adding a cause touches that file and nothing else: the macro
 * puts a pointer to it in the linker section nng_causes, which nng_causes_decide walks.
 *
 * `match` fills what it concludes into *v (proof, facts, doubt, fixes) and returns its confidence;
 * NNG_NO: not this one (whatever it wrote to *v is thrown away). NNG_CERTAIN needs evidence that
 * excludes the other causes; a text match alone is never certain.
 * The highest confidence wins; between equals the lower `rank` (the more specific) wins. Link order
 * never matters (ties of both are resolved by id).
 * Ranks from NNG_RANK_SHAPE on only tell how a process ended (an exception, an abort, a fault), not
 * why. They are true whenever they match, so a more specific cause that is at least likely goes before
 * them whatever their confidence.
 */
#ifndef NNG_CAUSES_CAUSE_H
#define NNG_CAUSES_CAUSE_H

#include "evidence.h"
#include "text.h"

struct nng_verdict;

struct nng_cause {
    const char *id;
    int rank;
    enum nng_confidence (*match)(const struct nng_evidence *ev, struct nng_verdict *v);
};

#define NNG_RANK_SHAPE 100
#define NNG_RANK_LAST 900 /* killed_unknown, unknown */

#define NNG_CAUSE(id_, rank_, match_)                                                              \
    static const struct nng_cause nng_cause_##id_ = {#id_, rank_, match_};                         \
    static const struct nng_cause *const nng_cause_ptr_##id_                                       \
        __attribute__((used, section("nng_causes"))) = &nng_cause_##id_

struct nng_words { /* one text in every language */
    char en[512];
    char zh[512];
};

enum nng_fact_type { NNG_FT_INT, NNG_FT_STR, NNG_FT_NULL };
struct nng_fact {
    char name[48]; /* "devshm.free_bytes" */
    enum nng_fact_type type;
    int64_t num;
    char str[256];
    char source[96]; /* "statfs in the faulting process" */
};

struct nng_fix {
    bool workaround;
    struct nng_words text;
    char command[384];     /* ready to be copied; "" none */
    struct nng_words cost; /* "" none */
};

#define NNG_PROOFS 4
#define NNG_FIXES 6
#define NNG_FACTS 32

struct nng_verdict {
    const char *cause; /* id */
    enum nng_confidence confidence;
    struct nng_words why;       /* completes "worker 3 of 6 died (pid 4711, SIGBUS): ..." */
    struct nng_words short_why; /* completes "this run failed because ..."; "" : same as why */
    int n_proof;
    struct nng_words proof[NNG_PROOFS]; /* most telling first; the screen shows up to three */
    struct nng_words
        doubt; /* likely/possible: what would make it certain; unknown: what is missing */
    int n_fix;
    struct nng_fix fix[NNG_FIXES]; /* root fixes first */
    int n_fact;
    struct nng_fact fact[NNG_FACTS];
};

/* [reap] Ask every cause; *out gets the winner (cause "unknown" or "killed_unknown" always match
 * something, so there is always one). */
void nng_causes_decide(const struct nng_evidence *ev, struct nng_verdict *out);
/* All causes, sorted by id; *n gets the number. */
const struct nng_cause *const *nng_causes_all(size_t *n);

/* ---- helpers for match functions ---- */
/* Both formats take the same arguments in the same order (the compiler checks both). Everything is
 * cleaned: no control character gets through, whatever an argument holds. */
#define NNG_BOTH(a_, b_) __attribute__((format(printf, a_, b_ + 1), format(printf, b_, b_ + 1)))
void nng_v_why(struct nng_verdict *v, const char *en, const char *zh, ...) NNG_BOTH(2, 3);
void nng_v_short(struct nng_verdict *v, const char *en, const char *zh, ...) NNG_BOTH(2, 3);
void nng_v_proof(struct nng_verdict *v, const char *en, const char *zh, ...) NNG_BOTH(2, 3);
void nng_v_doubt(struct nng_verdict *v, const char *en, const char *zh, ...) NNG_BOTH(2, 3);
/* A negative integer is unknown: a null. */
void nng_v_fact_int(struct nng_verdict *v, const char *name, int64_t value, const char *source);
void nng_v_fact_str(struct nng_verdict *v, const char *name, const char *value, const char *source);
/* A new fix; the caller fills command and cost through the returned pointer (never NULL; beyond
 * NNG_FIXES it is a scratch one). */
struct nng_fix *nng_v_fix(struct nng_verdict *v, bool workaround, const char *en, const char *zh,
                          ...) NNG_BOTH(3, 4);
void nng_fix_command(struct nng_fix *f, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void nng_fix_cost(struct nng_fix *f, const char *en, const char *zh, ...) NNG_BOTH(2, 3);

/* Fixes that several causes share; each knows the place (Docker, Kubernetes, Slurm, workstation). */
void nng_fix_shm_size(struct nng_verdict *v, const struct nng_evidence *ev, int64_t need);
/* NNGUARD_RESCUE=shm or =fd, with its cost; nothing where it is switched on. */
void nng_fix_rescue(struct nng_verdict *v, const struct nng_evidence *ev, const char *what);
void nng_fix_memory(struct nng_verdict *v, const struct nng_evidence *ev, int64_t need);
void nng_fix_fewer_workers(struct nng_verdict *v, const struct nng_evidence *ev, int workers);
/* docker or podman. */
const char *nng_fix_engine(const struct nng_evidence *ev);
/* A limit above the hard one: letter and long name as ulimit and prlimit know it. */
void nng_fix_ulimit(struct nng_verdict *v, const struct nng_evidence *ev, char letter,
                    const char *name, int64_t want);
void nng_fix_no_workers(struct nng_verdict *v, const struct nng_evidence *ev);
/* What the user typed, or "..." (in the user's eyes: the rest of their command). */
const char *nng_fix_trainer(const struct nng_evidence *ev);

#endif
