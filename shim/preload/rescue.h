/* SPDX-License-Identifier: MIT
 *
 * Rescue (NNGUARD_RESCUE=shm): what does not fit into /dev/shm gets memory of its own, and the program
 * does not notice. The file in /dev/shm stays, empty, and keeps the name, so that EEXIST, unlink and
 * permissions remain the kernel's; the program's descriptor is replaced by a memfd. A table in the
 * journal finds the memory again for whoever opens the name, and the monitor holds it until the name
 * is gone (monitor/hold.c). While there is room nothing is touched, and where memory is short too the
 * call fails as it would without us: an ENOSPC is better than an out-of-memory kill.
 *
 * What it cannot do: a file that somebody else has open or mapped already; names of processes that are
 * not guarded; stdio's own writes.
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

/* [as-safe] Is fd a file in /dev/shm that has neither size nor pages? Asked before an ftruncate. */
bool nng_rescue_fresh(int fd);
/* [as-safe] A fresh file has got its size by ftruncate, which promises nothing. Where room is tight the
 * pages are taken now, from /dev/shm or elsewhere, so that no later touch can fail. Keeps errno. */
void nng_rescue_sized(int fd, int64_t size);
/* [as-safe] A rescued file has got another size: the name shows it too. Keeps errno. */
void nng_rescue_resized(int fd, int64_t size);
/* [as-safe] fallocate of fd up to `end` found no room. True: fd is rescued, the call has succeeded. */
bool nng_rescue_allocate(int fd, int64_t end);
/* [as-safe] A write of `more` bytes at `off` (-1: the file's position) found no room. True: fd is
 * rescued, do it again. */
bool nng_rescue_write(int fd, int64_t off, int64_t more);
/* [as-safe] May this write to a file rescued by nng_rescue_write go on? False: errno is ENOSPC. */
bool nng_rescue_may_grow(int fd, int64_t off, int64_t more);
/* [as-safe] `fd` was just opened with `flags`: if it is the name of a rescued segment, make it the
 * segment. Returns fd, or -1 with errno (then it is closed). */
int nng_rescue_opened(int fd, int flags);
/* [as-safe] The same for the descriptor of a stream, which stays open whatever happens. */
void nng_rescue_stream(int fd, const char *mode);
/* [as-safe] Before and after an unlink: which segment's name it is (0 none), and that it is gone. */
uint64_t nng_rescue_name_of(int dir, const char *path);
void nng_rescue_unlinked(uint64_t ino);

/* [as-safe] rescue_sem.c. The rescued semaphore of that name; `ours` false: not one, ask libc. */
sem_t *nng_rescue_sem_open(const char *name, bool *ours);
/* [as-safe] libc's sem_open with O_CREAT found no page free. */
sem_t *nng_rescue_sem_create(const char *name, int flags, mode_t mode, unsigned value);

/* True where any rescued segment has a name: one load. */
static inline bool nng_rescue_any(void)
{
    struct nng_journal *j = nng_journal;
    return nng_rescue_shm && j && atomic_load_explicit(&j->hdr.rescue_named, memory_order_relaxed);
}

/* ---- between rescue.c, rescue_room.c and rescue_sem.c ------------------------------------------- */
/* [as-safe] An entry in state FILLING, or NULL where the table is full. */
struct nng_segment *nng_rescue_claim(int64_t size);
void nng_rescue_release(struct nng_segment *s);
/* [as-safe] Memory of `size`, its pages taken up to `filled`; a descriptor or -errno (-ENOSPC: refused).
 * `s` is the claimed entry or NULL. */
int nng_rescue_memory(int64_t size, int64_t filled, const struct nng_segment *s);
/* [as-safe] Make the segment known by the name file `name_fd` and have it held; bounded wait. */
void nng_rescue_publish(struct nng_segment *s, int name_fd, const struct stat *name, int mem_fd);
/* [as-safe] The segment whose name file this is, or NULL. */
struct nng_segment *nng_rescue_find(int fd, const struct stat *name);
/* [as-safe] Open it anew; descriptor (close-on-exec) or -errno. */
int nng_rescue_reopen(struct nng_segment *s, int flags);
/* [as-safe] Is there memory for `ask` more? Leaves a reserve; counts what others are just taking.
 * room_*: what there was, and of which limit. rescue_room.c */
bool nng_rescue_room(int64_t ask, const struct nng_segment *own, int64_t *room, int64_t *limit);

/* rescue_names.c. [as-safe] shm_open made this; may a file (as `st` tells it) be replaced at all? */
struct stat;
void nng_rescue_note_shm(int fd);
bool nng_rescue_is_shm(int fd, const struct stat *st);

#endif
