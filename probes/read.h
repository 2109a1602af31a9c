/* SPDX-License-Identifier: MIT
 *
 * Bounded reading below nng_probe_root, shared by the probes. [reap] Every file here may be
 * written or named by somebody else, so each read has a limit, nothing is followed that could block
 * (O_NONBLOCK, no waiting on pipes) and a line longer than the buffer is dropped, not split in two.
 */
#ifndef NNG_PROBES_READ_H
#define NNG_PROBES_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* nng_probe_root in front of the path; false: too long. */
bool nng_probes_path(char *out, size_t n, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* open(2) for reading, close-on-exec, never blocking. `path` already has the root. fd or -errno. */
int nng_probes_open(const char *path);
/* Read at most n - 1 bytes of a file below the root, terminated. Length or -errno. */
ssize_t nng_probes_slurp(const char *path, char *buf, size_t n);
/* A file that holds one number. "max" and "unlimited": `none`. -1 where there is none to read. */
int64_t nng_probes_number(const char *path, int64_t none);
/* Number behind the word `key` at the start of a line, as in memory.events or vmstat; -1. */
int64_t nng_probes_keyed(const char *text, const char *key);
uint64_t nng_probes_clock(int clock); /* nanoseconds */

/* A file in /dev/shm that is younger may belong to somebody who is just about to map it. Tests lower it. */
extern int nng_devshm_young_s;

struct nng_probes_lines { /* line by line; memory stays the same however long the file is */
    int fd;
    size_t have, at;
    bool skipping, end;
    size_t budget; /* bytes that may still be read */
    char buf[8192];
};
int nng_probes_lines_open(struct nng_probes_lines *l, const char *path,
                          size_t budget);                /* 0, -errno */
char *nng_probes_lines_next(struct nng_probes_lines *l); /* without the newline; NULL at the end */
void nng_probes_lines_close(struct nng_probes_lines *l);

#endif
