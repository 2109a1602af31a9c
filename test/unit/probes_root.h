/* SPDX-License-Identifier: MIT
 *
 * A made-up root folder for the probes' unit tests: files are put below a temporary folder and the
 * probes are pointed at it. Removed again by root_end.
 */
#ifndef NNG_TEST_PROBES_ROOT_H
#define NNG_TEST_PROBES_ROOT_H

#include "probes/probes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root_path[64];

static inline int root_begin(void **state)
{
    (void)state;
    snprintf(root_path, sizeof root_path, "/tmp/nng-probes-XXXXXX");
    if (!mkdtemp(root_path))
        return -1;
    nng_probe_root = root_path;
    return 0;
}

static inline int root_remove(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static inline int root_end(void **state)
{
    (void)state;
    nng_probe_root = "";
    return nftw(root_path, root_remove, 16, FTW_DEPTH | FTW_PHYS);
}

static inline void make_parents(char *path)
{
    for (char *p = path + strlen(root_path) + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        mkdir(path, 0755);
        *p = '/';
    }
}

static inline const char *root_full(const char *path)
{
    static char full[1024];
    snprintf(full, sizeof full, "%s%s", root_path, path);
    make_parents(full);
    return full;
}

static inline void put_bytes(const char *path, const void *data, size_t n)
{
    int fd = open(root_full(path), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, n), (ssize_t)n);
    close(fd);
}

static inline void put_text(const char *path, const char *text)
{
    put_bytes(path, text, strlen(text));
}

static inline void put_link(const char *path, const char *target)
{
    assert_int_equal(symlink(target, root_full(path)), 0);
}

#define ROOTED(f) cmocka_unit_test_setup_teardown(f, root_begin, root_end)

#endif
