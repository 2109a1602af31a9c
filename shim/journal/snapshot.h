/* SPDX-License-Identifier: MIT
 *
 * Reading a journal, live or left behind. The file is hostile input: another process may be writing
 * it, may have died half-way, or may have filled it with lies; it may be cut short or of another
 * version. Nothing here follows an offset or a length from the file without checking it; every
 * string handed out is terminated. Used by the monitor and by `nnguard report` ([reap] context: may
 * allocate).
 */
#ifndef NNG_JOURNAL_SNAPSHOT_H
#define NNG_JOURNAL_SNAPSHOT_H

#include "format.h"
#include <stdbool.h>

struct nng_view { /* an opened journal */
    int fd;
    bool writable;
    struct nng_journal *j; /* whole file mapped shared; read-only unless writable */
    struct nng_header hdr; /* own copy, strings terminated */
};

/* Open and check. 0, or -errno; -EPROTO: not a journal, -EPROTONOSUPPORT: other version, -EMSGSIZE:
 * cut short (then nothing is mapped). `fd` is taken over also on failure when >= 0, else `path` is
 * opened. */
int nng_view_open(struct nng_view *v, const char *path, int fd, bool writable);
void nng_view_close(struct nng_view *v);
/* Read hdr again (its atomics are those of the moment of the copy). 0 or -errno as above; on failure the
 * old copy stays. */
int nng_view_refresh(struct nng_view *v);
/* [monitor, once] From now on a SIGBUS inside v->j (somebody cut the file short) lays zeroed anonymous
 * memory over it instead of killing us; nng_view_gone then is true. Everything else in this header reads
 * by pread and never faults. */
void nng_view_guard(const struct nng_view *v);
bool nng_view_gone(void);

/* A record copied out and checked. */
struct nng_got {
    struct nng_rec rec; /* text terminated within rec2text below */
    char text[NNG_TEXT + 1];
    uint64_t ticket;
};

enum nng_ring_id { NNG_RING_EVENTS, NNG_RING_TRACE, NNG_RING_SAMPLES };

#define NNG_LATE_N 16u

struct nng_cursor {
    enum nng_ring_id ring;
    uint64_t next; /* next ticket to read */
    uint64_t lost; /* tickets overwritten before they were read */
    uint64_t torn; /* tickets skipped because they never were committed or fail their check */
    uint64_t hole; /* ticket that was found uncommitted ... */
    uint64_t
        hole_since_ns;  /* ... and since when; a live writer gets 20 ms before it counts as torn */
    uint64_t hole_next; /* tickets given out when that hole was found: the others wait with it */
    /* Skipped as torn, but looked at again: a writer may only have had no CPU. Such a record comes out
     * of order (go by its time), and `torn` is corrected. */
    unsigned n_late;
    uint64_t late[NNG_LATE_N];
};

/* Start of the oldest matter still there. */
void nng_cursor_init(struct nng_cursor *c, const struct nng_view *v, enum nng_ring_id ring);
/* Next valid record in ticket order: true and *out, else false (nothing new, or the next slot is just
 * being written). `final`: no writer lives, do not wait for uncommitted slots. */
bool nng_cursor_next(struct nng_cursor *c, const struct nng_view *v, bool final,
                     struct nng_got *out);

/* Copy a process entry; strings terminated, counters clamped. False: index out of range or FREE. */
bool nng_view_proc(const struct nng_view *v, unsigned index, struct nng_proc *out);
/* Index of the live entry with this pid (newest generation) or -1. */
int nng_view_find(const struct nng_view *v, uint32_t pid);
/* The tail of a copied entry in reading order, terminated, control characters kept (clean with
 * nng_text_clean before showing). out must hold NNG_TAIL_SIZE + 1. Returns its length. */
unsigned nng_proc_tail(const struct nng_proc *p, char *out);
/* The i-th last file (0 newest) or NULL. */
const char *nng_proc_file(const struct nng_proc *p, unsigned i);

/* [monitor] Free an entry for use by others. */
void nng_view_free_proc(struct nng_view *v, unsigned index, uint64_t generation);

const char *nng_rec_type_name(unsigned type);
const char *nng_health_text(unsigned what);

#endif
