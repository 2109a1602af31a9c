/* SPDX-License-Identifier: MIT
 *
 * Rescue (NNGUARD_RESCUE=shm): what does not fit into /dev/shm gets memory of its own, and the program
 * does not notice. The program's descriptor is replaced by a memfd; the name in /dev/shm becomes a link
 * to /proc/MONITOR/fd/N, where the monitor holds that memory until the name is gone (monitor/hold.c).
 * So whoever opens, asks or changes the name reaches the memory itself, guarded or not, of this run or
 * another; EEXIST, unlink and rename remain the kernel's. Only shm_open and sem_open do not follow
 * links: ours do where the link is one of these. While there is room nothing is touched, and where
 * memory is short too the call fails as it would without us: an ENOSPC is better than an out-of-memory
 * kill.
 *
 * What it cannot do: a file that somebody else has open or mapped already; a name that nobody can hold
 * (no monitor, or more than NNG_SEGMENTS_N); attaching by another user; stdio's own writes.
 */
#ifndef NNG_PRELOAD_RESCUE_H
#define NNG_PRELOAD_RESCUE_H

#include "internal.h"
#include <semaphore.h>
#include <sys/stat.h>

/* Set once by the constructor. All calls below are made only where this is true. */
extern bool nng_rescue_shm;
/* Files that grew out of /dev/shm by write: their further growth is watched. */
extern _Atomic unsigned nng_rescue_written;

/* [init] Read NNGUARD_RESCUE; `fd`: raise the soft limit of descriptors. */
void nng_rescue_init(void);

/* [as-safe] Before an ftruncate to `size`. 0: let it be done; 1: it is done, fd is rescued; -errno. Keeps
 * errno. */
int nng_rescue_size(int fd, int64_t size);
/* [as-safe] Before an fallocate up to `end`. 0: let it be done; -ENOSPC: memory is short for what was
 * rescued before. */
int nng_rescue_may_allocate(int fd, int64_t end);
/* [as-safe] fallocate of fd up to `end` found no room (`keep`: and leaves the size). True: fd is rescued,
 * the call has succeeded. */
bool nng_rescue_allocate(int fd, int64_t end, bool keep);
/* [as-safe] Before a write of one byte: far behind the end it gives the file a size, as ftruncate does. */
void nng_rescue_stretch(int fd, int64_t off);
/* [as-safe] A write of `more` bytes at `off` (-1: the file's position) found no room. True: fd is
 * rescued, do it again. */
bool nng_rescue_write(int fd, int64_t off, int64_t more);
/* [as-safe] May this write to a file that is perhaps rescued go on? False: errno is ENOSPC. */
bool nng_rescue_may_grow(int fd, int64_t off, int64_t more);
/* [as-safe] The size of memory that stands for a file of /dev/shm; -1: fd is something else. */
int64_t nng_rescue_size_of(int fd);
/* [as-safe] `path` did not open because it is a link: where it is one of ours, the segment behind it,
 * else -errno. */
int nng_rescue_follow(const char *path, int flags);
/* [as-safe] Before and after an unlink: which segment's name it is (0 none), and that it is gone. */
uint64_t nng_rescue_name_of(int dir, const char *path);
void nng_rescue_unlinked(uint64_t ino);

/* rescue_sole.c. [as-safe] Counts what may give a file to others: fork, exec, dup, messages. */
extern _Atomic unsigned nng_rescue_spread;
static inline void nng_rescue_may_spread(void)
{
    atomic_fetch_add_explicit(&nng_rescue_spread, 1, memory_order_relaxed);
}
/* [as-safe] This thread has just opened fd; it maps fd. */
void nng_rescue_note_open(int fd);
void nng_rescue_note_map(int fd);

/* [as-safe] rescue_sem.c. libc's sem_open met a link: the rescued semaphore behind it, or SEM_FAILED. */
sem_t *nng_rescue_sem_open(const char *name);
/* [as-safe] libc's sem_open with O_CREAT found no page free. */
sem_t *nng_rescue_sem_create(const char *name, int flags, mode_t mode, unsigned value);

/* True where any rescued segment has a name: one load. */
static inline bool nng_rescue_any(void)
{
    struct nng_journal *j = nng_journal;
    return nng_rescue_shm && j && atomic_load_explicit(&j->hdr.rescue_named, memory_order_relaxed);
}

/* ---- between the files of rescue ---------------------------------------------------------------- */
/* [as-safe] An entry in state FILLING, or NULL where the table is full or nobody can hold it. */
struct nng_segment *nng_rescue_claim(int64_t size, bool named);
void nng_rescue_release(struct nng_segment *s);
/* [as-safe] Memory of `size`, its pages taken up to `filled`, where there is room for `room`; a descriptor
 * or -errno (-ENOSPC: refused; `quiet`: not worth a word). `s` is the claimed entry or NULL. */
int nng_rescue_memory(int64_t size, int64_t filled, int64_t room, const struct nng_segment *s,
                      bool quiet);
/* [as-safe] So much was rescued: count it, and say it the first time. */
void nng_rescue_made(int64_t size);
/* [as-safe] Have the memory held and give it the name `path`: in the place of the file `fd` (as `st` tells
 * it), or with fd -1 as a new name. Bounded wait. False or -errno: nothing has changed, `s` is free. */
int nng_rescue_name(struct nng_segment *s, const char *path, int fd, const struct stat *st,
                    int mem_fd);
/* rescue_sole.c. [as-safe] Nobody else has this file. */
bool nng_rescue_is_sole(int fd, const struct stat *st);
/* [as-safe] Nobody else has it open, and whoever opens it now waits (`wait`: for those who have it open
 * only for a moment). nng_lease_end: true if nobody is waiting. */
bool nng_lease(int fd, bool wait);
bool nng_lease_end(int fd);
/* rescue_promise.c. [as-safe] Does `size` of fd fit beside all that was given before? `keep`: then enter
 * it, too. */
bool nng_promise_fits(int fd, const struct stat *st, int64_t size, bool keep);
uint64_t nng_promise_add(int fd, uint64_t ino, int64_t size, bool memory);
int64_t nng_free_bytes(int fd);
/* [as-safe] Rescued memory that was given and not yet used, without the file `own`. */
int64_t nng_promised_memory(uint64_t own);
/* [as-safe] Is there memory for `ask` more? Leaves a reserve; counts what others are just taking
 * and what was given (but to the file `ino`). room, limit: what there was. rescue_room.c */
bool nng_rescue_room(int64_t ask, const struct nng_segment *own, uint64_t ino, int64_t *room,
                     int64_t *limit);

/* rescue_names.c. [as-safe] shm_open made this; may a file (as `st` tells it) be replaced at all? */
struct stat;
void nng_rescue_note_shm(int fd);
bool nng_rescue_is_shm(int fd, const struct stat *st);

#endif
