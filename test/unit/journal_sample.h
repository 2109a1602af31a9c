/* SPDX-License-Identifier: MIT
 *
 * A journal in a temporary file for unit tests, and the tools to spoil it. Included by one test
 * program at a time.
 */
#ifndef NNG_TEST_JOURNAL_SAMPLE_H
#define NNG_TEST_JOURNAL_SAMPLE_H

#include "shim/journal/append.h"
#include "shim/journal/snapshot.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

struct sample {
    char path[64];
    int fd;
    struct nng_journal *j;
};

static inline void sample_header(struct nng_journal *j)
{
    j->hdr.magic = NNG_MAGIC;
    j->hdr.version = NNG_VERSION;
    j->hdr.header_size = sizeof j->hdr;
    j->hdr.file_size = sizeof *j;
    j->hdr.root_pid = (uint32_t)getpid();
    strcpy(j->hdr.host, "node7");
}

static inline int sample_make(void **state)
{
    static struct sample s;
    strcpy(s.path, "/tmp/nng-unit-XXXXXX");
    s.fd = mkstemp(s.path);
    assert_true(s.fd >= 0);
    assert_int_equal(posix_fallocate(s.fd, 0, sizeof(struct nng_journal)), 0);
    s.j = mmap(NULL, sizeof(struct nng_journal), PROT_READ | PROT_WRITE, MAP_SHARED, s.fd, 0);
    assert_true(s.j != MAP_FAILED);
    sample_header(s.j);
    nng_journal_attach(s.j);
    *state = &s;
    return 0;
}

static inline int sample_drop(void **state)
{
    struct sample *s = *state;
    nng_journal_detach();
    munmap(s->j, sizeof(struct nng_journal));
    close(s->fd);
    unlink(s->path);
    return 0;
}

static inline uint64_t put_note(int64_t a, const char *text)
{
    return nng_put(&(struct nng_put){.type = NNG_R_NOTE, .a = a, .text = text});
}

#endif
