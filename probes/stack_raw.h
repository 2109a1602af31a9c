/* SPDX-License-Identifier: MIT
 *
 * What is taken from a held process before it is let go, shared by stack.c (takes) and
 * stack_names.c (resolves). It lives in memory shared with a child process, so it holds no pointers, and
 * whoever reads it while the child may still write trusts only `n`.
 */
#ifndef NNG_PROBES_STACK_RAW_H
#define NNG_PROBES_STACK_RAW_H

#include "probes.h"

#define NNG_STACK_FRAMES 48
#define NNG_STACK_MODULES 48
#define NNG_STACK_PAGE 4096

struct nng_stack_module {
    uint64_t start, end;               /* of its first mapping */
    uint64_t bias;                     /* address in memory - address in the file */
    uint64_t eh_hdr, eh_entries, last; /* unwind table; last: end of its last mapping */
    uint64_t hash;  /* of its first page in memory; 0: not read, names cannot be trusted */
    char path[256]; /* "" where it does not fit */
};

struct nng_stack_raw {
    int pid, err;
    _Atomic int n;
    int n_modules;
    bool named; /* `resolved` is complete */
    struct {
        uint64_t ip;
        int module; /* -1 none */
        bool exact; /* not a return address */
    } frame[NNG_STACK_FRAMES];
    struct nng_stack_module module[NNG_STACK_MODULES];
    struct {
        char symbol[96];
    } resolved[NNG_STACK_FRAMES];
};

/* Run work(arg) in a child for at most limit_ms; the child is killed then. 0, -ETIME, -errno. */
int nng_stack_apart(void (*work)(void *), void *arg, int limit_ms);
uint64_t nng_stack_hash(const unsigned char *page);
/* A readable name for the common C++ ones, "at::TensorIteratorBase::for_each"; out gets any other as it is.
 * The static program has no C++ library to ask. */
void nng_stack_readable(const char *symbol, char *out, size_t n);
void nng_stack_names(struct nng_stack_raw *raw, uint64_t until_ns);

#endif
