/* SPDX-License-Identifier: MIT
 *
 * report.txt and report.json on disk, and the link `latest`. Each is made beside its place and
 * renamed over it, so a reader sees the old or the new one, and a full disk leaves the old one.
 * Nothing here follows a symbolic link at the last step: the folder may lie in /tmp.
 */
#include "part.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return -errno;
        p += w;
        n -= (size_t)w;
    }
    return 0;
}

static int replace_file(int dir, const char *name, const char *text)
{
    char temp[80];
    snprintf(temp, sizeof temp, ".%s.%d", name, (int)getpid());
    unlinkat(dir, temp, 0); /* left by a namesake that was killed */
    int fd = openat(dir, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int err = write_all(fd, text, strlen(text));
    if (close(fd) && !err) /* quota and network file systems tell only now */
        err = -errno;
    if (!err && renameat(dir, temp, dir, name))
        err = -errno;
    if (err)
        unlinkat(dir, temp, 0);
    return err;
}

/* Folder names begin with the time of the run's start, so they sort by age. An older run that
 * rewrites its report must not take the link from a newer one. */
static bool is_newer(int parent, const char *id)
{
    char target[256], report[300];
    ssize_t n = readlinkat(parent, "latest", target, sizeof target - 1);
    if (n <= 0)
        return true;
    target[n] = 0;
    snprintf(report, sizeof report, "%s/report.json", target);
    return strncmp(target, id, strlen("20260101T000000Z")) <= 0 ||
           faccessat(parent, report, F_OK, 0) != 0;
}

static int point_latest(int parent, const char *id)
{
    char temp[40];
    if (!is_newer(parent, id))
        return 0;
    snprintf(temp, sizeof temp, ".latest.%d", (int)getpid());
    unlinkat(parent, temp, 0);
    if (symlinkat(id, parent, temp))
        return -errno;
    if (!renameat(parent, temp, parent, "latest"))
        return 0;
    int err = -errno;
    unlinkat(parent, temp, 0);
    return err;
}

static void keep_first(int *err, int next)
{
    if (!*err)
        *err = next;
}

static int write_one(int dir, const char *name, char *text)
{
    int err = text ? replace_file(dir, name, text) : -ENOMEM;
    free(text);
    return err;
}

int nng_report_write(const struct nng_run *r)
{
    struct nng_style s;
    if (!r->dir[0])
        return -ENOENT;
    int dir = open(r->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -errno;
    nng_style_from_env(&s, -1);
    s.color = false;
    int err = write_one(dir, "report.txt", nng_report_text(r, &s));
    keep_first(&err, write_one(dir, "report.json", nng_report_json(r)));
    int parent = openat(dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const char *base = strrchr(r->dir, '/');
    base = base ? base + 1 : r->dir;
    if (parent < 0)
        keep_first(&err, -errno);
    else if (*base && faccessat(dir, "report.json", F_OK, 0) == 0)
        keep_first(&err, point_latest(parent, base));
    if (parent >= 0)
        close(parent);
    close(dir);
    return err;
}
