/* SPDX-License-Identifier: MIT
 *
 * What the files of shim/report share: the table of words, a list of lines that fits a limit by
 * leaving out the least important ones, and a growing text. [reap] context.
 *
 * Hostile text: every line, and every string of the JSON document, is cleaned at the moment it goes
 * out (nng_lines_add, nng_out_line, json.c), so nobody before that has to.
 */
#ifndef NNG_REPORT_PART_H
#define NNG_REPORT_PART_H

#include "report.h"

/* ---- words.c: every phrase in every language, {1} to {9} are filled in --------------------------
 */
enum nng_word {
    W_THE_TRAINER,
    W_WORKER_OF,
    W_WORKER_N,
    W_A_WORKER,
    W_HELPER,
    W_DIED,
    W_KILLED,
    W_FAILED,
    W_STANDS_STILL,
    W_PID,
    W_RANK,
    W_EXIT_STATUS,
    W_COMMA,
    W_COLON,
    W_SEMICOLON,
    W_OPEN,
    W_CLOSE,
    W_IN,
    W_FIX,
    W_ELSE,
    W_NEXT,
    W_CERTAIN,
    W_LIKELY,
    W_POSSIBLE,
    W_UNKNOWN,
    W_DETAILS,
    W_NO_DETAILS,
    W_TIMES,
    W_TIMES_LAST,
    W_WHEN,
    W_BECAUSE_DIED,
    W_BECAUSE_FAILED,
    W_CL_FAILED,
    W_CL_LIKELY,
    W_CL_POSSIBLE,
    W_CL_UNKNOWN,
    W_CL_STALL,
    W_CL_STALL_UNSURE,
    W_CL_CONSEQUENCE,
    W_CL_WELL,
    W_CL_WELL_STALL,
    W_CL_APART,
    W_CL_APART_STALL,
    W_CL_INTERRUPTED,
    W_CL_MORE_1,
    W_CL_MORE,
    W_CL_SILENT,
    W_CL_NOTHING,
    W_END_STATUS,
    W_END_SIGNAL,
    W_END_UNKNOWN,
    W_INFERRED,
    W_REMINDER,
    W_MINUTES,
    W_T_TITLE,
    W_T_STARTED,
    W_T_ENDED,
    W_T_COMMAND,
    W_T_RUNS_ON,
    W_T_SILENT_END,
    W_T_ADVICE,
    W_T_COST,
    W_T_EVIDENCE,
    W_T_CONSEQUENCES,
    W_T_TIMELINE,
    W_T_NATIVE,
    W_T_PYTHON,
    W_T_CULPRIT,
    W_T_NO_STACK,
    W_T_OUTPUT,
    W_T_FILES,
    W_T_LIMITS,
    W_T_USE,
    W_T_TRACEBACK,
    W_T_OTHER,
    W_T_BEYOND,
    W_T_MACHINE,
    W_T_GUARD,
    W_T_LOST,
    W_T_UNLIMITED,
    W_T_PROCESS,
    W_COUNT
};

const char *nng_word(enum nng_word w, enum nng_lang lang);
/* Fill the phrase; args are strings, as many as its highest number. Returns out. */
char *nng_say(char *out, size_t n, enum nng_lang lang, enum nng_word w, const char *const *args);
#define SAY(out, lang, w, ...)                                                                     \
    nng_say(out, sizeof(out), lang, w, (const char *const[]){__VA_ARGS__, ""})
/* The text in this language, in English where it has none. */
const char *nng_pick(const struct nng_words *w, enum nng_lang lang);
/* Language that this style can show. */
enum nng_lang nng_style_lang(const struct nng_style *s);

/* ---- lines.c ------------------------------------------------------------------------------------
 */
#define NNG_LINE_MAX 1000
#define NNG_LINES_MAX 32
#define NNG_COLUMNS 100
#define NNG_PREFIX "nnguard: "

enum nng_tint { NNG_PLAIN, NNG_ALARM, NNG_CURE };

struct nng_line {
    int weight; /* 0: most important, never left out */
    enum nng_tint tint;
    char text[NNG_LINE_MAX];
};
struct nng_lines {
    int n;
    struct nng_line line[NNG_LINES_MAX];
};

/* Add one line, cleaned. */
void nng_lines_add(struct nng_lines *l, int weight, enum nng_tint tint, const char *text);
/* The same, broken at NNG_COLUMNS; every line after the first starts with `indent` spaces. */
void nng_lines_wrap(struct nng_lines *l, int weight, const char *text, int indent);
/* Write the lines, each with `prefix`, at most max bytes in all; returns the length. */
size_t nng_lines_write(const struct nng_lines *l, const struct nng_style *s, const char *prefix,
                       char *out, size_t max);
/* Columns on a terminal. */
int nng_columns(const char *utf8);
/* Clean one piece of text from a process: one line, secrets replaced by "***". */
void nng_clean(char *out, size_t n, const char *text);
/* Replace what follows "password=", "token:" and the like, and user:password in addresses. */
void nng_redact(char *line);
/* "--token": the argument after it is a secret. */
bool nng_secret_flag(const char *arg);

/* ---- out.c: a growing text ----------------------------------------------------------------------
 */
struct nng_out {
    char *p;
    size_t len, cap;
    bool failed;
    bool ascii;
};
void nng_out_raw(struct nng_out *o, const char *bytes, size_t n);
/* One line, cleaned, with a newline. */
void nng_out_line(struct nng_out *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Non-ASCII characters to their nearest ASCII; in place, never longer. */
void nng_fold_ascii(char *text);

/* ---- who.c: phrases about an incident
 * ------------------------------------------------------------ */
/* "worker 3 of 6" */
void nng_say_who(char *out, size_t n, const struct nng_who *w, enum nng_lang lang);
/* "worker 3 of 6 died (pid 4711, SIGBUS): /dev/shm is full" */
void nng_say_first(char *out, size_t n, const struct nng_incident *i, enum nng_lang lang);
/* "in     a.py:418 f  <-  b.py:71 g", "" where nothing is known. */
void nng_say_where(char *out, size_t n, const struct nng_evidence *ev, enum nng_lang lang);
/* "exit status 1", "SIGKILL", ... */
void nng_say_status(char *out, size_t n, const struct nng_status *st, enum nng_lang lang);
const char *nng_say_confidence(enum nng_confidence c, enum nng_lang lang);

/* ---- block.c ------------------------------------------------------------------------------------
 */
/* Up to `max` pieces of advice, after the first only what fits into `room` lines. */
void nng_add_advice(struct nng_lines *l, const struct nng_verdict *v, enum nng_lang lang, int max,
                    int room);
void nng_build_block(struct nng_lines *l, const struct nng_run *r, const struct nng_incident *i,
                     enum nng_lang lang);
/* closing.c: the first sentence of the closing block. */
void nng_say_end(char *out, size_t n, const struct nng_run *r, enum nng_lang lang);
/* rescued.c: the sentence about a run's rescued segments. */
void nng_say_rescued(char *out, size_t n, const struct nng_rescued *r, enum nng_lang lang);
/* "<dir>/report.txt"; false where nothing is written. */
bool nng_details_path(char *out, size_t n, const struct nng_run *r);

/* ---- time.c -------------------------------------------------------------------------------------
 */
/* CLOCK_BOOTTIME now. */
uint64_t nng_boot_now(void);
uint64_t nng_real_ns(const struct nng_run *r, uint64_t boot_ns);
/* Local clock: "14:03:07", "14:03:07.123", "2026-11-24 14:03:07 +0100". */
enum nng_clock { NNG_CLOCK, NNG_CLOCK_MS, NNG_CLOCK_DATE };
char *nng_say_time(char *out, size_t n, const struct nng_run *r, uint64_t boot_ns,
                   enum nng_clock how);
/* Indexes of the run's moments in the order of their times (they were noted in the order in which
 * they became known); returns how many. `order` holds NNG_TIMELINE. */
int nng_moment_order(const struct nng_run *r, int *order);
/* "2026-11-24T14:03:07.123456789Z" */
char *nng_say_rfc3339(char *out, size_t n, uint64_t real_ns);

#endif
