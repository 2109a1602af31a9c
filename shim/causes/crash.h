/* SPDX-License-Identifier: MIT
 *
 * What every crash (segfault, abort, ...) has to say: where, in whose library, with which files open.
 */
#ifndef NNG_CAUSES_CRASH_H
#define NNG_CAUSES_CRASH_H

#include "common.h"

/* Proof, facts and advice common to crashes; f may be NULL. */
void nng_v_crash(struct nng_verdict *v, const struct nng_evidence *ev, const struct nng_fault *f);
/* File name of the library in which it crashed, "" unknown. */
const char *nng_ev_library(const struct nng_evidence *ev, const struct nng_fault *f);
/* The data file that it had opened last, "" none. */
const char *nng_ev_last_file(const struct nng_evidence *ev);

#endif
