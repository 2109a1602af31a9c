/* SPDX-License-Identifier: MIT
 *
 * What the files of libnnguard.so share. Rules for everything in this folder:
 *   - libc only; no malloc, lock, stdio or dl function after start-up; stack frames <= 1 KiB in
 *     whatever a signal handler can reach;
 *   - a hook returns exactly what libc would, errno included; on any failure of ours it passes
 *     through and counts it (nng_health);
 *   - no file here calls a hooked name: NEXT(name) for the real function, nng_sys_* for the kernel;
 *   - process-private state (signal table, run identity, leaving) is only changed when
 *     nng_is_self(): a vfork child runs in its parent's memory (man vfork.2). Appending to the
 *     journal needs no such check.
 */
#ifndef NNG_PRELOAD_INTERNAL_H
#define NNG_PRELOAD_INTERNAL_H

#include "../journal/append.h"
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- hooks: one line declares type, pointer, export and the entry the constructor binds ------ */
struct nng_hook {
    const char *name;
    void **slot;
};
#define NNG_EXPORT __attribute__((visibility("default")))
/* Bind the real functions that are still missing. Done by the constructor; a hook that is called
 * before it, or whose function came with a library that was loaded later, gets there through REAL(). */
void nng_bind(void);
/* The table holds pointers: gcc over-aligns structs in a custom section. */
#define HOOK_SLOT(ret, name, params)                                                               \
    typedef ret(*nng_type_##name) params;                                                          \
    static nng_type_##name nng_next_##name;                                                        \
    static const struct nng_hook nng_hook_##name = {#name, (void **)&nng_next_##name};             \
    static const struct nng_hook *const nng_hookp_##name                                           \
        __attribute__((used, section("nng_hooks"))) = &nng_hook_##name;
#define HOOK(ret, name, params)                                                                    \
    HOOK_SLOT(ret, name, params)                                                                   \
    NNG_EXPORT ret name params;                                                                    \
    NNG_EXPORT ret name params
/* The real function; NULL before the constructor ran (then use nng_sys_*) or where libc lacks it. */
#define NEXT(name) (nng_next_##name)
/* The real function of a name that no system call replaces. NULL only for what no loaded library has:
 * shm_*, sem_* and pthread_* of a glibc before 2.34 (bind.c). Those hooks must look. */
#define REAL(name) (NEXT(name) ? NEXT(name) : (nng_bind(), NEXT(name)))

/* ---- raw system calls (sys.c): no errno, return -errno ---------------------------------------- */
long nng_sys(long n, long a, long b, long c, long d, long e, long f);
#define nng_sys0(n) nng_sys(n, 0, 0, 0, 0, 0, 0)
#define nng_sys1(n, a) nng_sys(n, (long)(a), 0, 0, 0, 0, 0)
#define nng_sys2(n, a, b) nng_sys(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define nng_sys3(n, a, b, c) nng_sys(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define nng_sys4(n, a, b, c, d) nng_sys(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define nng_sys5(n, a, b, c, d, e)                                                                 \
    nng_sys(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define nng_sys6(n, a, b, c, d, e, f)                                                              \
    nng_sys(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
/* Set errno from a raw result, as libc does. */
static inline long nng_ret(long r)
{
    if (r < 0 && r >= -4095) {
        errno = (int)-r;
        return -1;
    }
    return r;
}

/* ---- identity (start.c) ------------------------------------------------------------------------ */
struct nng_state {
    bool on;   /* this process records (a Python process of a run) */
    bool root; /* it is the run's root */
    bool python;
    int pid;             /* stored at start and after fork; compare with a raw getpid */
    bool monitor_wanted; /* NNGUARD_MONITOR != 0 */
    int proc_index;
};
extern struct nng_state nng_st;

/* [child] In a fork child: takes a new entry and says so. Does nothing where it was done already. */
void nng_start_after_fork(void);
/* [init] Remove the run's journal and folder (no monitor does it, and nothing happened). Root only. */
void nng_start_remove_run(void);
/* [as-safe] The value of a variable, without libc (getenv is a hook), or NULL. */
const char *nng_env(const char *name);
/* [as-safe] One whole line "nnguard: ..." built from the parts (up to NULL) in one write to fd 2. */
void nng_say(const char *part, ...) __attribute__((sentinel));

/* [as-safe] False in a vfork child of this process. Costs a getpid (130 ns and more). */
bool nng_is_self(void);

/* Where the journal is mapped, for the SIGBUS handler. */
extern char *nng_map_base;
extern size_t nng_map_size;

/* ---- called by start.c ------------------------------------------------------------------------- */
/* [init] Install the handlers (Python processes only). signals.c */
void nng_signals_init(void);
/* [child] In a fork child, before anything else of the program runs; the journal entry is new. */
void nng_signals_after_fork(void);
/* [init] Alternate stack for the main thread; thread hook set-up. threads.c */
void nng_threads_init(void);
/* [as-safe] Our alternate stack again for the calling main thread, where a smaller one was laid over it. */
void nng_threads_main_stack_again(void);
/* [init] Register the exit handlers. leave.c */
void nng_leave_init(void);

/* ---- leave.c ------------------------------------------------------------------------------------ */
/* [as-safe] Record that this process leaves with `code` (call EXIT or _EXIT), and, in the root, do the
 * handshake with the monitor: when the run has incidents wait for the closing block, else only for
 * unacknowledged suspects; at most 1 s. Does nothing the second time, or in a vfork child. */
void nng_leave(int code, enum nng_call how);
/* [as-safe] The handshake alone (fatal signal, signal to itself). */
void nng_leave_handshake(void);
/* [as-safe] Fill in this process's nng_usage (limits, memory, threads, fds). usage.c */
void nng_usage_fill(struct nng_usage *u);

/* ---- fails.c: a hook saw a failure -------------------------------------------------------------- */
/* [as-safe] Is this errno one that can be a cause (EMFILE ENFILE ENOSPC EDQUOT EFBIG EIO ENOMEM EAGAIN
 * (for fork and pthread_create only))? */
bool nng_err_matters(int err);
/* [as-safe] Append a FAIL record; with fd >= 0 adds fstatfs of it (and its path from /proc/self/fd when
 * path is NULL), else statfs of `path`'s folder. Thinned: the first 4 of a (call, errno) in a process,
 * then powers of two, and at least one a second. Keeps errno. */
void nng_fail(enum nng_call call, int err, int fd, const char *path, int64_t asked);

/* [child] The counters of a new process start at zero. */
void nng_fails_after_fork(void);
/* [as-safe] Does st_dev belong to /dev/shm? */
bool nng_on_devshm(uint64_t dev);

/* ---- memory-less formatting (fmt.c) -------------------------------------------------------------- */
/* [as-safe] Write into buf, always terminated; return buf's new end. */
char *nng_fmt_str(char *p, char *end, const char *s);
char *nng_fmt_u64(char *p, char *end, uint64_t v);
char *nng_fmt_hex(char *p, char *end, uint64_t v);
/* [as-safe] Parsers; return the position behind the number. */
const char *nng_parse_u64(const char *p, const char *end, uint64_t *v);
const char *nng_parse_hex(const char *p, const char *end, uint64_t *v);

/* ---- glibc's faulthandler trick (signals.c) ------------------------------------------------------ */
/* [any-thread] getenv hook asks: should PYTHONFAULTHANDLER be answered with "1"? Only in a Python
 * process, where the name is unset. Saying yes also arms the slot: the next sigaction for BUS, ILL, FPE,
 * ABRT and SEGV, all with one and the same handler, come from faulthandler and go into a slot of their
 * own. */
bool nng_signals_offer_faulthandler(void);
/* [as-safe] The write hook asks: would this write, part of the dump that we had faulthandler make in a
 * dying process, wait for a reader? Then it goes into the tail only. Costs a thread-local look. */
bool nng_signals_dump_blocks(int fd);
/* [as-safe] ... and is it the long list behind the frames, for which the tail has no room? */
bool nng_signals_dump_is_long(const void *bytes, size_t n);

#endif
