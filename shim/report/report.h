/* SPDX-License-Identifier: MIT
 *
 * From incidents to words: the block on stderr, the closing block, report.txt and report.json. A
 * report decides nothing: it shows what the verdict says. [reap] context; used by the monitor and
 * by `nnguard report`.
 */
#ifndef NNG_REPORT_REPORT_H
#define NNG_REPORT_REPORT_H

#include "../causes/cause.h"
#include "../causes/evidence.h"
#include <stdbool.h>
#include <stddef.h>

#define NNG_INCIDENTS 64
#define NNG_CONSEQUENCES 64
#define NNG_TIMELINE 256
#define NNG_BLOCK_MAX 4096 /* bytes: one write stays whole in a pipe (PIPE_BUF) */

struct nng_consequence {
    int pid, signal; /* signal 0: ended with a code */
    int code;
    struct nng_words why; /* "terminated by the trainer" */
};

struct nng_incident {
    struct nng_evidence ev;
    struct nng_verdict verdict;
    unsigned count;
    uint64_t last_time_ns; /* 0: only once */
    int n_consequences;
    struct nng_consequence consequence[NNG_CONSEQUENCES];
};

struct nng_moment { /* one line of the timeline */
    uint64_t time_ns;
    char text[160];
};

struct nng_rescued { /* memory that stood in for /dev/shm (NNGUARD_RESCUE=shm) */
    uint64_t segments, bytes, biggest, refused;
    uint64_t peak;                                    /* no more were alive at a time */
    int64_t refused_ask, refused_room, refused_limit; /* of the last refusal */
    int64_t shm_total;
};

struct nng_run {
    char id[128];  /* folder's name */
    char dir[512]; /* "" : memfd, nothing written */
    char host[64];
    int root_pid, rank;
    char command[1024];                                 /* NUL separated, double NUL ends */
    uint64_t start_real_ns, start_boot_ns, end_boot_ns; /* end 0: runs on */
    struct nng_status exit;
    bool ended_silently; /* no good-bye, no status: everything was killed together */
    int root;            /* index of the root incident or -1 */
    bool root_doubtful;  /* several causes led up to the end, and nothing names one of them */
    uint64_t lost_records, torn_records;
    uint64_t health[16];
    struct nng_machine machine;
    struct nng_hostmem hostmem;
    struct nng_shm shm;
    struct nng_usage limits;       /* of the root */
    int n_incidents, n_beyond;     /* beyond: not kept */
    struct nng_incident *incident; /* NNG_INCIDENTS of them */
    struct nng_rescued rescued;
    int n_moments;
    struct nng_moment moment[NNG_TIMELINE]; /* the run's last minute, oldest first */
};

enum nng_lang { NNG_EN, NNG_ZH };
struct nng_style {
    enum nng_lang lang;
    bool color;
    bool utf8; /* false: ASCII only; Chinese then falls back to English */
};

/* Style from NNGUARD_LANG, NNGUARD_COLOR, LC_ALL, LC_MESSAGES, LANG, NO_COLOR, TERM and whether fd
 * is a terminal. Plain getenv, no setlocale. */
void nng_style_from_env(struct nng_style *s, int fd);
/* False: the setting holds a word that it does not know. */
bool nng_style_knows_color(void);
bool nng_style_knows_lang(void);

/* Each writes at most NNG_BLOCK_MAX bytes of whole lines, each starting with "nnguard: ", returns
 * the length. Text is never cut inside a UTF-8 character. */
size_t nng_report_block(char *out, const struct nng_run *r, const struct nng_incident *i,
                        const struct nng_style *s);
size_t nng_report_closing(char *out, const struct nng_run *r, const struct nng_style *s);
/* How much was rescued and the lasting fix; report/rescued.c */
size_t nng_report_rescued(char *out, const struct nng_run *r, const struct nng_style *s);
/* "... it still stands still, 214 batches lost since 14:03:07" */
size_t nng_report_reminder(char *out, const struct nng_run *r, const struct nng_incident *i,
                           const struct nng_style *s);

/* The whole crash log / JSON document, allocated (free it); NULL: out of memory. */
char *nng_report_text(const struct nng_run *r, const struct nng_style *s);
char *nng_report_json(const struct nng_run *r);

/* Write report.txt and report.json atomically (temporary file, fsync not needed, rename) into
 * r->dir and point NNGUARD_DIR/latest (the parent folder's link) at it. 0 or -errno of the first
 * failure; a full disk leaves the older version in place. */
int nng_report_write(const struct nng_run *r);

#endif
