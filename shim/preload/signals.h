/* SPDX-License-Identifier: MIT
 *
 * What signals.c (the virtual table), crash.c (the handler), maps.c and hooks_signal.c tell each
 * other. Nobody else needs it.
 */
#ifndef NNG_PRELOAD_SIGNALS_H
#define NNG_PRELOAD_SIGNALS_H

#include "internal.h"
#include <signal.h>
#include <ucontext.h>

/* ---- hooks_signal.c: the kernel's own table ----------------------------------------------------- */
/* [as-safe] sigaction as the kernel has it; works before the hooks are bound. 0 or -errno. */
int nng_sig_kernel(int sig, const struct sigaction *act, struct sigaction *old);

/* ---- signals.c ----------------------------------------------------------------------------------- */
/* [as-safe] Is the program's view of this signal kept by us (and this no vfork child)? */
bool nng_sig_is_virtual(int sig);
/* [as-safe] sigaction on the program's view; 0 or -errno. */
int nng_sig_action(int sig, const struct sigaction *act, struct sigaction *old);
/* [as-safe] What the program has set, without a lock. */
void nng_sig_lookup(int sig, struct sigaction *out);
/* [as-safe] SA_RESETHAND: the program's action becomes the default, flags and mask stay. */
void nng_sig_reset(int sig);
/* [as-safe] The function that faulthandler installed for sig at our invitation, or NULL. */
void (*nng_sig_faulthandler(int sig))(int);
/* [as-safe] The signals that the handler keeps out: all but the synchronous ones. */
uint64_t nng_sig_handler_mask(void);

/* ---- crash.c --------------------------------------------------------------------------------------- */
void nng_crash_handler(int sig, siginfo_t *si, void *ctx);
/* [init] Where glibc keeps its abort message. */
void nng_crash_init(void);
/* [child] Forget what the parent's threads were doing. */
void nng_crash_after_fork(void);
/* [as-safe] This thread is about to end the process: if another is dying of a signal meanwhile, wait for
 * it (bounded), since without us it would have been dead already, with its own status. */
void nng_crash_let_finish(void);
/* [as-safe] Is this thread inside faulthandler's dump, run by us, for this signal (0: for any)? */
bool nng_crash_in_faulthandler(int sig);

/* ---- leave.c ---------------------------------------------------------------------------------------- */
/* [child] This process has not left yet. */
void nng_leave_after_fork(void);
/* [as-safe] Is there a monitor, starting or at work, that is not dead? */
bool nng_leave_monitor_follows(const struct nng_header *h);

/* ---- maps.c ---------------------------------------------------------------------------------------- */
/* [as-safe, one thread at a time] Fill in all of `f` that /proc/self/maps and the file behind f->addr
 * tell. signo, code, addr, ip and sp must be there. */
void nng_maps_fill(struct nng_fault *f);

#define NNG_SIGBIT(s) (1ULL << ((s)-1))

/* [as-safe] The thread's mask, as the kernel sees it (64 signals). */
uint64_t nng_sigmask(int how, uint64_t set);

#endif
