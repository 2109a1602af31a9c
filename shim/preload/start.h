/* SPDX-License-Identifier: MIT
 *
 * What the files of the start-up share: start.c decides and joins, ids.c knows who this process is,
 * root.c makes the run's folder and journal, launch.c starts the monitor. [init] context unless said
 * otherwise: libc may be used as long as no name of ours is called.
 */
#ifndef NNG_PRELOAD_START_H
#define NNG_PRELOAD_START_H

#include "internal.h"

/* ---- ids.c ------------------------------------------------------------------------------------- */
struct nng_identity {
    char boot_id[40];
    uint64_t pidns; /* inode, 0 unknown */
    uint64_t ticks; /* start time, 0 unknown */
    uint32_t uid;
    int pid;
    char comm[16];
    char cmdline[512]; /* arguments separated by spaces, secrets replaced */
};
extern struct nng_identity nng_me;

/* Fill nng_me. */
void nng_ids_init(void);
/* [as-safe] After a fork: pid and start ticks change. */
void nng_ids_after_fork(int pid);
/* [as-safe] Field 22 of /proc/PID/stat, 0 unknown; pid 0: self. */
uint64_t nng_ids_ticks(int pid);
/* [as-safe] Whole small file into buf, terminated. Length, or -errno. */
long nng_read_file(const char *path, char *buf, size_t size);
/* This process's arguments, each terminated, secrets replaced; returns bytes used of out. */
size_t nng_ids_command(char *out, size_t size);
/* NAME=VALUE of allow-listed variables, each terminated. */
void nng_ids_env(char *out, size_t size);
/* RANK and its kin, or -1. */
int nng_ids_rank(void);
/* Is `name` among `globs` (comma-separated, with * and ?)? */
bool nng_ids_match(const char *globs, const char *name);
/* `path` made absolute by the current folder; false where it does not fit. */
bool nng_ids_absolute(const char *path, char *out, size_t size);

/* ---- bind.c (nng_bind is in internal.h) --------------------------------------------------------- */
/* Our own file as the loader knows it; maybe relative. Set by nng_bind. */
extern const char *nng_library_path;

/* ---- root.c ------------------------------------------------------------------------------------ */
/* Make folder and journal, map it, fill the header. Returns its fd (close-on-exec; close it soon) or
 * -errno. *path: the journal's path, "" for a memfd. Says one line where a folder had to be skipped. */
int nng_root_make(const char **path, struct nng_journal **map, bool speak);
/* Inode number's device of /dev/shm, 0 none. */
uint64_t nng_root_shm_dev(void);

/* ---- launch.c ---------------------------------------------------------------------------------- */
/* Start the monitor on the journal; state and pid go into its header. */
void nng_launch_monitor(struct nng_journal *j, int journal_fd);
/* Its pid; waits a moment for it to be known. <= 0: none. */
int nng_launch_pid(struct nng_journal *j);
/* Pid of the process between us and the monitor while it is not collected yet, else 0. */
extern _Atomic int nng_launch_middle;
void nng_launch_reap(void);
/* A process of ours stays our child as long as we live; it has no exit signal. */
extern bool nng_launch_keeper;
/* [as-safe] Called by hooks that every program meets soon after its start. */
static inline void nng_launch_tidy(void)
{
    if (__builtin_expect(atomic_load_explicit(&nng_launch_middle, memory_order_relaxed), 0))
        nng_launch_reap();
}
/* The path that was tried, for the line about a missing monitor. */
extern char nng_launch_path[512];

#endif
