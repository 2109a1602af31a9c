/* SPDX-License-Identifier: MIT
 *
 * One process as /proc shows it. A name may hold any byte, so stat is parsed from its last
 * parenthesis; arguments are cleaned and secrets in them replaced before anybody sees them.
 */
#include "../shim/causes/text.h"
#include "probes.h"
#include "read.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define TASKS_MAX 1024
#define SCAN_MAX 65536

static uint64_t ticks_ns(unsigned long long ticks)
{
    long hz = sysconf(_SC_CLK_TCK);
    return (uint64_t)ticks * (1000000000ULL / (uint64_t)(hz > 0 ? hz : 100));
}

/* The kernel hides exit_code from readers without ptrace access and shows 0. Reading the link of
 * the pid namespace is refused by the very same check. */
static bool may_read_status(int pid)
{
    char path[512], link[64];

    if (!nng_probes_path(path, sizeof path, "/proc/%d/ns/pid", pid))
        return true;
    return readlink(path, link, sizeof link) >= 0 || (errno != EACCES && errno != EPERM);
}

static int parse_stat(char *text, struct nng_pstat *out)
{
    char *open = strchr(text, '('), *close = strrchr(text, ')');
    unsigned long long field[53] = {0};
    int n = 3;
    char *save = NULL;

    if (!open || !close || close < open || close[1] != ' ' || !close[2])
        return -EINVAL;
    out->pid = atoi(text);
    size_t len = (size_t)(close - open - 1);
    if (len >= sizeof out->comm)
        len = sizeof out->comm - 1;
    memcpy(out->comm, open + 1, len);
    out->state = close[2];
    for (char *w = strtok_r(close + 3, " \n", &save); w && n < 52; w = strtok_r(NULL, " \n", &save))
        field[++n] = strtoull(w, NULL, 10); /* negative numbers wrap and come back by the cast */
    if (n < 22)
        return -EINVAL;
    out->ppid = (int)field[4];
    out->pgrp = (int)field[5];
    out->session = (int)field[6];
    out->utime_ns = ticks_ns(field[14]);
    out->stime_ns = ticks_ns(field[15]);
    out->threads = (int)field[20];
    out->start_ticks = field[22];
    out->exit_code = n >= 52 ? (int)field[52] : 0;
    /* While it is being reaped the number of threads reads 0 and the code is not to be trusted
     * (fs/proc/array.c: both come from the signal structure, which is gone then). */
    out->exit_code_readable = n >= 52 && out->threads > 0;
    return 0;
}

int nng_proc_stat(int pid, struct nng_pstat *out)
{
    char path[64], text[2048];
    ssize_t n;

    memset(out, 0, sizeof *out);
    if (pid <= 0)
        return -ESRCH;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    n = nng_probes_slurp(path, text, sizeof text);
    if (n < 0)
        return n == -ENOENT ? -ESRCH : (int)n;
    int err = parse_stat(text, out);
    if (!err && (out->state == 'Z' || out->state == 'X') && !may_read_status(pid))
        out->exit_code_readable = false;
    return err;
}

int64_t nng_proc_rss(int pid)
{
    char path[64], text[128];
    long long pages;

    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    if (nng_probes_slurp(path, text, sizeof text) <= 0 || sscanf(text, "%*s %lld", &pages) != 1 ||
        pages < 0 || pages > INT64_MAX / 65536)
        return -1;
    return pages * sysconf(_SC_PAGESIZE);
}

/* ---- secrets ---------------------------------------------------------------------------------- */
static bool secret_name(const char *s, size_t n)
{
    static const char *const words[] = {"token",  "key",        "password",  "passwd",
                                        "secret", "credential", "passphrase"};
    for (size_t i = 0; i < n; i++)
        for (size_t w = 0; w < sizeof words / sizeof words[0]; w++) {
            size_t len = strlen(words[w]);
            if (len > n - i || strncasecmp(s + i, words[w], len))
                continue;
            if (!strncasecmp(s + i, "tokeniz", n - i < 7 ? n - i : 7) && n - i >= 7)
                continue; /* --tokenizer is no secret */
            return true;
        }
    return false;
}

/* Password in "scheme://user:password@host": keep all but it. */
static const char *url_password(const char *arg, size_t n, size_t *len)
{
    const char *sep = memmem(arg, n, "://", 3);
    const char *end, *at = NULL, *colon;

    if (!sep)
        return NULL;
    sep += 3;
    end = arg + n;
    for (const char *p = sep; p < end && *p != '/'; p++)
        if (*p == '@')
            at = p;
    colon = at ? memchr(sep, ':', (size_t)(at - sep)) : NULL;
    if (!colon)
        return NULL;
    *len = (size_t)(at - colon - 1);
    return colon + 1;
}

struct joined {
    char *out;
    size_t n, have;
};

static void put(struct joined *j, const char *s, size_t n)
{
    if (n > j->n - 1 - j->have)
        n = j->n - 1 - j->have;
    memcpy(j->out + j->have, s, n);
    j->have += n;
    j->out[j->have] = '\0';
}

static void put_arg(struct joined *j, const char *arg, size_t n, bool *hide_next)
{
    const char *eq = memchr(arg, '=', n);
    size_t hidden;
    const char *pw;
    bool option = n > 1 && arg[0] == '-';

    if (*hide_next && !(n > 2 && arg[0] == '-' && arg[1] == '-')) {
        *hide_next = false;
        put(j, "***", 3);
        return;
    }
    *hide_next = false;
    if (eq && secret_name(arg, (size_t)(eq - arg)) && !memchr(arg, ' ', (size_t)(eq - arg))) {
        put(j, arg, (size_t)(eq - arg) + 1);
        put(j, "***", 3);
    } else if ((pw = url_password(arg, n, &hidden)) != NULL) {
        put(j, arg, (size_t)(pw - arg));
        put(j, "***", 3);
        put(j, pw + hidden, n - (size_t)(pw - arg) - hidden);
    } else {
        put(j, arg, n);
        *hide_next = option && !eq && secret_name(arg, n);
    }
}

void nng_proc_cmdline(int pid, char *out, size_t n)
{
    char path[64], raw[4096], joined[4096];
    struct joined j = {joined, sizeof joined, 0};
    bool hide = false;
    ssize_t len;

    out[0] = joined[0] = '\0';
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    len = nng_probes_slurp(path, raw, sizeof raw);
    for (ssize_t i = 0; i < len;) {
        size_t arg = strnlen(raw + i, (size_t)(len - i));
        if (i)
            put(&j, " ", 1);
        put_arg(&j, raw + i, arg, &hide);
        i += (ssize_t)arg + 1;
    }
    while (j.have && joined[j.have - 1] == ' ')
        j.have--;
    nng_text_clean_line(out, n, joined, j.have);
}

void nng_proc_name(int pid, char *out, size_t n)
{
    char path[64], raw[64];
    ssize_t len;

    out[0] = '\0';
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    len = nng_probes_slurp(path, raw, sizeof raw);
    if (len > 0 && raw[len - 1] == '\n')
        len--;
    if (len > 0)
        nng_text_clean_line(out, n, raw, (size_t)len);
}

/* ---- children --------------------------------------------------------------------------------- */
static int add_list(const char *text, int *out, int n, int max)
{
    char *end;
    for (const char *p = text; n < max; p = end) {
        long pid = strtol(p, &end, 10);
        if (end == p)
            break;
        if (pid > 0)
            out[n++] = (int)pid;
    }
    return n;
}

/* Each thread has its own list of the children it forked. -errno: the kernel has no such files. */
static int children_of_tasks(int pid, int *out, int max)
{
    char path[512], text[16384];
    struct dirent *e;
    int n = 0, tasks = 0, err = -ENOENT;

    if (!nng_probes_path(path, sizeof path, "/proc/%d/task", pid))
        return -ENAMETOOLONG;
    DIR *d = opendir(path);
    if (!d)
        return -errno;
    while ((e = readdir(d)) && tasks < TASKS_MAX && n < max) {
        if (!isdigit((unsigned char)e->d_name[0]))
            continue;
        tasks++;
        snprintf(path, sizeof path, "/proc/%d/task/%.16s/children", pid, e->d_name);
        ssize_t len = nng_probes_slurp(path, text, sizeof text);
        if (len < 0)
            continue;
        err = 0;
        n = add_list(text, out, n, max);
    }
    closedir(d);
    return err ? err : n;
}

static int children_by_scan(int pid, int *out, int max)
{
    char path[512];
    struct dirent *e;
    struct nng_pstat st;
    int n = 0, seen = 0;

    if (!nng_probes_path(path, sizeof path, "/proc"))
        return 0;
    DIR *d = opendir(path);
    if (!d)
        return 0;
    while ((e = readdir(d)) && n < max && seen < SCAN_MAX) {
        if (!isdigit((unsigned char)e->d_name[0]))
            continue;
        seen++;
        if (!nng_proc_stat(atoi(e->d_name), &st) && st.ppid == pid)
            out[n++] = st.pid;
    }
    closedir(d);
    return n;
}

int nng_proc_children(int pid, int *out, int max)
{
    int n = children_of_tasks(pid, out, max);
    return n >= 0 ? n : children_by_scan(pid, out, max);
}
