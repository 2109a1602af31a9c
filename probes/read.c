/* SPDX-License-Identifier: MIT
 *
 * Bounded reading for the probes; see read.h. Owns nng_probe_root.
 */
#include "read.h"
#include "probes.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

const char *nng_probe_root = "";

bool nng_probes_path(char *out, size_t n, const char *fmt, ...)
{
    va_list ap;
    int root = snprintf(out, n, "%s", nng_probe_root);

    if (root < 0 || (size_t)root >= n)
        return false;
    va_start(ap, fmt);
    int rest = vsnprintf(out + root, n - (size_t)root, fmt, ap);
    va_end(ap);
    return rest >= 0 && (size_t)rest < n - (size_t)root;
}

int nng_probes_open(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    return fd < 0 ? -errno : fd;
}

ssize_t nng_probes_slurp(const char *path, char *buf, size_t n)
{
    char full[1024];
    size_t have = 0;

    buf[0] = '\0';
    if (!nng_probes_path(full, sizeof full, "%s", path))
        return -ENAMETOOLONG;
    int fd = nng_probes_open(full);
    if (fd < 0)
        return fd;
    while (have < n - 1) {
        ssize_t got = read(fd, buf + have, n - 1 - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            int err = errno;
            close(fd);
            buf[0] = '\0';
            return -err;
        }
        if (got == 0)
            break;
        have += (size_t)got;
    }
    close(fd);
    buf[have] = '\0';
    return (ssize_t)have;
}

static int64_t number(const char *s, int64_t none)
{
    while (*s == ' ' || *s == '\t')
        s++;
    if (!strncmp(s, "max", 3) || !strncmp(s, "unlimited", 9))
        return none;
    if (!isdigit((unsigned char)*s))
        return -1;
    errno = 0;
    unsigned long long v = strtoull(s, NULL, 10);
    return errno || v > INT64_MAX ? INT64_MAX : (int64_t)v;
}

int64_t nng_probes_number(const char *path, int64_t none)
{
    char buf[64];
    return nng_probes_slurp(path, buf, sizeof buf) > 0 ? number(buf, none) : -1;
}

int64_t nng_probes_keyed(const char *text, const char *key)
{
    size_t n = strlen(key);

    for (const char *p = text; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL) {
        if (!strncmp(p, key, n) && (p[n] == ' ' || p[n] == '\t' || p[n] == ':'))
            return number(p + n + 1, -1);
    }
    return -1;
}

uint64_t nng_probes_clock(int clock)
{
    struct timespec ts = {0, 0};
    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

int nng_probes_lines_open(struct nng_probes_lines *l, const char *path, size_t budget)
{
    char full[1024];

    memset(l, 0, offsetof(struct nng_probes_lines, buf));
    l->fd = -1;
    l->budget = budget;
    if (!nng_probes_path(full, sizeof full, "%s", path))
        return -ENAMETOOLONG;
    l->fd = nng_probes_open(full);
    return l->fd < 0 ? l->fd : 0;
}

void nng_probes_lines_close(struct nng_probes_lines *l)
{
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
}

static bool fill(struct nng_probes_lines *l)
{
    size_t room;
    ssize_t got;

    memmove(l->buf, l->buf + l->at, l->have - l->at);
    l->have -= l->at;
    l->at = 0;
    room = sizeof l->buf - 1 - l->have;
    if (room > l->budget)
        room = l->budget;
    if (l->end || room == 0)
        return false;
    do
        got = read(l->fd, l->buf + l->have, room);
    while (got < 0 && errno == EINTR);
    if (got <= 0) {
        l->end = true;
        return false;
    }
    l->have += (size_t)got;
    l->budget -= (size_t)got;
    return true;
}

char *nng_probes_lines_next(struct nng_probes_lines *l)
{
    for (;;) {
        char *start = l->buf + l->at;
        char *nl = memchr(start, '\n', l->have - l->at);
        if (nl) {
            *nl = '\0';
            l->at = (size_t)(nl - l->buf) + 1;
            if (l->skipping) { /* the end of a line that did not fit */
                l->skipping = false;
                continue;
            }
            return start;
        }
        if (l->at == 0 && l->have == sizeof l->buf - 1) {
            l->skipping = true;
            l->have = 0;
        }
        if (fill(l))
            continue;
        if (l->have == l->at || l->skipping)
            return NULL;
        start = l->buf + l->at; /* last line without a newline */
        l->buf[l->have] = '\0';
        l->at = l->have;
        return start;
    }
}
