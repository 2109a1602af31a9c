/* SPDX-License-Identifier: MIT
 *
 * What several causes need to read out of the evidence. Pure, like the causes themselves. Functions
 * that start with nng_ev_ read evidence, nng_v_ write into a verdict.
 */
#ifndef NNG_CAUSES_COMMON_H
#define NNG_CAUSES_COMMON_H

#include "cause.h"

#include <signal.h>

#define NNG_PAGE_MIN 4096
#define NNG_SEC 1000000000ULL

/* The signal that this incident is about, 0: none. Not always the one that ended the process: the
 * trainer's SIGKILL may strike a process that waits for its stack after a segfault. */
int nng_ev_signal(const struct nng_evidence *ev);
/* The record of that signal, NULL: none (it came blind, or another one killed). */
const struct nng_fault *nng_ev_fault(const struct nng_evidence *ev, int signo);
/* The record says that the kernel raised it because of an instruction or a limit, nobody sent it. */
bool nng_ev_by_kernel(const struct nng_fault *f);
/* `want`, or LIKELY with a doubt if the end itself was not seen but only what the process recorded. */
enum nng_confidence nng_ev_cap(const struct nng_evidence *ev, struct nng_verdict *v,
                               enum nng_confidence want);
/* It left with an exit code (or is the root that failed in its own words) instead of a signal. */
bool nng_ev_left(const struct nng_evidence *ev);
/* Was the limit of the cgroup, or of one above that can be seen, met about then? Or was it, for all that
 * can be read, another one: the machine's (its kills are counted in the victim's cgroup too), or that of a
 * cgroup above that cannot be seen. */
bool nng_ev_at_limit(const struct nng_memscope *m);
bool nng_ev_other_limit(const struct nng_memscope *m);
/* The machine has little memory left, without what the victim's death gave back. */
bool nng_ev_host_short(const struct nng_hostmem *h, int64_t victim_rss);
/* A signal `signo` sent to the victim from inside this run, shortly before it died; NULL none. */
const struct nng_killrec *nng_ev_killer(const struct nng_evidence *ev, int signo);
/* Its cgroup counted an out-of-memory kill about then that is not accounted for. */
bool nng_ev_oom_open(const struct nng_evidence *ev);
/* The victim's own failed call with err that its exception speaks of: the one whose path the message
 * names, or the newest if the message names no path. *sure: that it is this one. devshm: 1 only on
 * /dev/shm, 0 only elsewhere, -1 both. */
const struct nng_failcall *nng_ev_blamed(const struct nng_evidence *ev, int err, int devshm,
                                         bool *sure);
/* `want`, or less where the traceback need not be the end: a program that logs an exception and goes on prints
 * the same, and other output behind it. At most possible then, but for what multiprocessing prints of an end,
 * and for a program whose call `f` (NULL: not recorded) failed just before: its stdout is written as it leaves,
 * behind the traceback. */
enum nng_confidence nng_ev_end_cap(const struct nng_evidence *ev, struct nng_verdict *v,
                                   const struct nng_failcall *f, enum nng_confidence want);
/* The traceback gives the system's own text for errno err. A number alone ("[Errno 28] inotify watch limit
 * reached") is a library's, for a limit of another kind. */
bool nng_ev_errno_in_words(const struct nng_evidence *ev, int err, const char *text);
/* The last part of a path looks like what torch and multiprocessing put into /dev/shm. */
bool nng_ev_shm_name(const char *name);
/* A path in quotes or <> in the exception's message; "" none. */
const char *nng_ev_path_in_words(const struct nng_evidence *ev);
bool nng_ev_type_is(const struct nng_evidence *ev, const char *type);
/* It left with a code and no traceback after this call had failed: may the one have led to the other? The
 * last thing it said says so, or it ended within a second and there is still no room (free_now; -1 unknown).
 * A program that handled the failure and left for another reason looks the same but for that. */
bool nng_ev_silent_exit(const struct nng_evidence *ev, const struct nng_failcall *f,
                        int64_t free_now);
/* The words are those of a bystander ("background workers are no longer alive", broken pipes). */
bool nng_ev_consequence(const struct nng_evidence *ev);
int nng_ev_workers(const struct nng_evidence *ev); /* how many of them, at least 1 */
/* Soft limit; -1 unlimited, -2 unknown. */
int64_t nng_ev_rlim(const struct nng_evidence *ev, int resource, bool hard);
/* Bytes that the failed allocation asked for, from its words or from a record shortly before; -1. */
bool nng_ev_alloc_stated(const struct nng_evidence *ev); /* its own words tell how many */
int64_t nng_ev_alloc_asked(const struct nng_evidence *ev);
/* The last line of its output that holds `marker`, cleaned; "" none. */
/* Its last line holds `words`. */
bool nng_ev_last_said(const struct nng_evidence *ev, const char *words);
const char *nng_ev_line_with(const struct nng_evidence *ev, const char *marker);
/* "MemoryError", bad_alloc and their kin. */
bool nng_ev_alloc_failed(const struct nng_evidence *ev);

/* ---- a bus error taken apart ---- */
enum nng_end { NNG_END_UNKNOWN, NNG_END_INSIDE, NNG_END_PAST };
enum nng_room { NNG_ROOM_UNKNOWN, NNG_ROOM_NONE, NNG_ROOM_LITTLE, NNG_ROOM_ENOUGH };
struct nng_bus {
    const struct nng_fault *f;
    bool file;         /* the address lies in a file's mapping */
    bool device, huge; /* it does not: a device's memory, huge pages. Their sizes mean nothing */
    bool devshm;
    bool tmpfs, exact_fs; /* exact_fs: its statfs tells the truth about room (ext, xfs, tmpfs) */
    bool writable_shared;
    bool full_for_all; /* NONE, and not only because of blocks that are kept for root */
    bool recorded;     /* the size is only the last one that this run set */
    enum nng_end end;
    enum nng_room room;
    int64_t free, bfree, total, size, offset, page;
    const char *path, *name; /* cleaned; name is short */
};
/* A BUS_ADRERR by the kernel, with a record. */
bool nng_ev_bus(const struct nng_evidence *ev, struct nng_bus *b);
void nng_v_bus_facts(struct nng_verdict *v, const struct nng_bus *b);

/* ---- facts that several causes show ---- */
void nng_v_signal_facts(struct nng_verdict *v, const struct nng_evidence *ev);
void nng_v_memory_facts(struct nng_verdict *v, const struct nng_evidence *ev);
void nng_v_exception_facts(struct nng_verdict *v, const struct nng_evidence *ev);
void nng_v_fail_facts(struct nng_verdict *v, const struct nng_failcall *f);
/* "the trainer" / "worker 3" for the middle of a sentence. */
const char *nng_ev_victim(const struct nng_evidence *ev, bool zh);
const char *nng_role_name(enum nng_role role, bool zh);

#endif
