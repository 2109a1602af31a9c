/* SPDX-License-Identifier: MIT
 *
 * Writing into the journal. Everything here is async-signal-safe, takes no lock, allocates nothing
 * and keeps errno. Linked into libnnguard.so (libc only, see Makefile) and into the monitor.
 * When no journal is mapped (recording off) every call does nothing.
 */
#ifndef NNG_JOURNAL_APPEND_H
#define NNG_JOURNAL_APPEND_H

#include "format.h"
#include <stdbool.h>
#include <stddef.h>

/* The mapped journal of this process, or NULL: recording is off. Set by nng_journal_attach and
 * cleared by nng_journal_detach (also from the SIGBUS handler). */
extern struct nng_journal *nng_journal;
/* This process's entry in nng_journal->procs, or NULL. */
extern struct nng_proc *nng_self;

/* The journal lies on a copy-on-write file system, where a full disk may refuse even an allocated page. */
extern bool nng_journal_frail;
/* [as-safe] May these bytes of the journal be written? Always, but for a frail journal on a full disk:
 * then recording ends. */
bool nng_journal_fit(const void *at, size_t n);

/* [init] Use the mapping at `j` (already checked) from now on. */
void nng_journal_attach(struct nng_journal *j);
/* [child] In a fork child: the process is `pid` now and has no entry yet (nng_self becomes NULL). */
void nng_journal_forked(uint32_t pid);
/* [as-safe] Stop recording; does not unmap. */
void nng_journal_detach(void);

/* Fields of a record in one argument; the rest (pid, tid, time, check) is filled in. */
struct nng_put {
    enum nng_rec_type type;
    enum nng_call call;
    int err;
    unsigned flags; /* NNG_RF_* */
    int64_t a, b, c, d;
    const char *text; /* NULL or terminated; cut from the left to NNG_TEXT bytes */
};

/* [as-safe] Append one record to the ring its type belongs to. The writer is the process that attached
 * or was forked, by its stored pid; with NNG_RF_VFORK the kernel is asked. A BIRTH also makes nng_self
 * LIVE with the record's ticket as its generation. With NNG_RF_SUSPECT, or for types
 * BIRTH, HELD and LEAVE of the root, the bell is rung. Returns the ticket (0 where off). */
uint64_t nng_put(const struct nng_put *p);

/* [as-safe] Add one to the bell and wake the monitor. */
void nng_ring_bell(void);

/* [as-safe] Count an internal failure. */
void nng_health(enum nng_health what);

/* [as-safe] Claim an entry in procs for the calling process (FREE first, then the oldest LEFT), clear
 * it and return it in state CLAIMED; NULL and NNG_H_NO_PROC_ENTRY where all are taken. */
struct nng_proc *nng_proc_claim(void);

/* [as-safe] Append bytes to this process's tail. */
void nng_tail_put(const void *bytes, size_t n);

/* [as-safe] Remember a data file as opened (last NNG_FILES_N are kept). */
void nng_file_put(const char *path);

/* [as-safe] Remember / look up the size of dev:inode. look-up: true and *size set where known. */
void nng_size_put(uint64_t dev, uint64_t ino, uint64_t size);
bool nng_size_get(uint64_t dev, uint64_t ino, uint64_t *size);

/* [as-safe] CLOCK_BOOTTIME in ns. */
uint64_t nng_now(void);

#endif
