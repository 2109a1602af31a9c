/* SPDX-License-Identifier: MIT
 *
 * Where a process' memory and pids controllers are, and what they count: cgroup v1, v2 and both at
 * once. Inside a container the path that /proc/PID/cgroup names need not exist below the mount that
 * can be seen; then the mount itself is the container's own group, but only where it is a mount of
 * a part of the hierarchy, or lists the process. Anything else stays unknown: the counters of a
 * stranger's group would make a false verdict. Mounts are looked up, never assumed.
 */
#include "probes.h"
#include "read.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MOUNTINFO_MAX (4u << 20)
#define NO_LIMIT_V1 (INT64_MAX / 2) /* v1 writes "none" as the largest page-aligned number */
#define LEVELS_MAX 64

struct mount {
    bool found;
    char root[512], point[512];
};

struct place { /* of one controller */
    int version;
    char path[512]; /* as /proc/PID/cgroup names it */
};

/* ---- /proc/PID/cgroup ------------------------------------------------------------------------- */
static bool in_list(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; p; p = strchr(p, ','), p = p ? p + 1 : NULL)
        if (!strncmp(p, word, n) && (p[n] == ',' || p[n] == '\0'))
            return true;
    return false;
}

static int read_places(int pid, struct place *mem, struct place *pids)
{
    char path[64];
    struct nng_probes_lines *l = malloc(sizeof *l);
    char *line;
    int err;

    memset(mem, 0, sizeof *mem);
    memset(pids, 0, sizeof *pids);
    if (!l)
        return -ENOMEM;
    snprintf(path, sizeof path, "/proc/%d/cgroup", pid);
    err = nng_probes_lines_open(l, path, 1u << 16);
    while (!err && (line = nng_probes_lines_next(l))) {
        char *list = strchr(line, ':');
        char *where = list ? strchr(list + 1, ':') : NULL;
        if (!where || where[1] != '/' || strlen(where + 1) >= sizeof mem->path)
            continue;
        *list++ = '\0';
        *where++ = '\0';
        struct place *of[2] = {mem, pids};
        const char *name[2] = {"memory", "pids"};
        for (int i = 0; i < 2; i++) {
            bool v1 = in_list(list, name[i]), v2 = !strcmp(line, "0") && !*list;
            if (v1 || (v2 && of[i]->version == 0)) {
                of[i]->version = v1 ? 1 : 2;
                strcpy(of[i]->path, where);
            }
        }
    }
    nng_probes_lines_close(l);
    free(l);
    return err;
}

/* ---- mounts ----------------------------------------------------------------------------------- */
static void unescape(char *s) /* \040 and kin */
{
    char *to = s;
    for (; *s; s++) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
            s[3] >= '0' && s[3] <= '7') {
            *to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 3;
        } else {
            *to++ = *s;
        }
    }
    *to = '\0';
}

struct fields {
    char *root, *point, *type, *super;
};

static bool split_mount(char *line, struct fields *f)
{
    char *save = NULL, *rest = strstr(line, " - ");
    char *w;
    int i = 0;

    if (!rest)
        return false;
    *rest = '\0';
    memset(f, 0, sizeof *f);
    for (w = strtok_r(line, " ", &save); w && i < 5; w = strtok_r(NULL, " ", &save), i++) {
        if (i == 3)
            f->root = w;
        else if (i == 4)
            f->point = w;
    }
    f->type = strtok_r(rest + 3, " ", &save);
    strtok_r(NULL, " ", &save); /* source */
    f->super = strtok_r(NULL, " ", &save);
    if (!f->root || !f->point || !f->type || !f->super)
        return false;
    unescape(f->root);
    unescape(f->point);
    return true;
}

/* Where in `path` the part below a mount's root starts, or -1 where it lies elsewhere. */
static int below(const char *path, const char *root)
{
    size_t n = strlen(root);

    if (!strcmp(root, "/"))
        return 0;
    if (strncmp(path, root, n) || (path[n] != '/' && path[n] != '\0'))
        return -1;
    return (int)n;
}

static bool offers(const struct fields *f, const struct place *p, const char *controller)
{
    return p->version == 1 ? !strcmp(f->type, "cgroup") && in_list(f->super, controller)
                           : p->version == 2 && !strcmp(f->type, "cgroup2");
}

/* A mount whose root is above the path is better than any other; the later one hides the earlier. */
static void consider(struct mount *m, const struct fields *f, const char *path)
{
    bool fits = below(path, f->root) >= 0;

    if (m->found && below(path, m->root) >= 0 && !fits)
        return;
    if (strlen(f->root) >= sizeof m->root || strlen(f->point) >= sizeof m->point)
        return;
    m->found = true;
    strcpy(m->root, f->root);
    strcpy(m->point, f->point);
}

static void find_mounts(const struct place *mem, struct mount *mm, const struct place *pids,
                        struct mount *pm)
{
    struct nng_probes_lines *l = malloc(sizeof *l);
    struct fields f;
    char *line;

    memset(mm, 0, sizeof *mm);
    memset(pm, 0, sizeof *pm);
    if (!l)
        return;
    if (!nng_probes_lines_open(l, "/proc/self/mountinfo", MOUNTINFO_MAX)) {
        while ((line = nng_probes_lines_next(l))) {
            if (!split_mount(line, &f))
                continue;
            if (offers(&f, mem, "memory"))
                consider(mm, &f, mem->path);
            if (offers(&f, pids, "pids"))
                consider(pm, &f, pids->path);
        }
    }
    nng_probes_lines_close(l);
    free(l);
}

/* ---- the folder ------------------------------------------------------------------------------- */
static bool has(const char *folder, const char *file)
{
    char path[1024];
    return nng_probes_path(path, sizeof path, "%s/%s", folder, file) && access(path, F_OK) == 0;
}

static bool lists(const char *folder, int pid)
{
    char path[600];
    struct nng_probes_lines *l = malloc(sizeof *l);
    char *line;
    bool found = false;

    if (!l)
        return false;
    snprintf(path, sizeof path, "%s/cgroup.procs", folder);
    if (!nng_probes_lines_open(l, path, 1u << 20))
        while (!found && (line = nng_probes_lines_next(l)))
            found = atoi(line) == pid;
    nng_probes_lines_close(l);
    free(l);
    return found;
}

static void trim_slash(char *s)
{
    size_t n = strlen(s);
    while (n > 1 && s[n - 1] == '/')
        s[--n] = '\0';
}

static bool join(char out[512], const char *a, const char *b)
{
    int n = snprintf(out, 512, "%s%s", !strcmp(a, "/") ? "" : a, b);
    if (n < 0 || n >= 512)
        return false;
    trim_slash(out);
    return out[0] == '/';
}

static bool locate(int pid, const struct place *p, const struct mount *m, char folder[512])
{
    int rest;

    if (!m->found)
        return false;
    rest = below(p->path, m->root);
    /* "/../x" is a group outside of our cgroup namespace: no path below the mount leads there */
    bool outside = !strncmp(p->path, "/..", 3) && (p->path[3] == '/' || p->path[3] == '\0');
    if (rest >= 0 && !outside && join(folder, m->point, p->path + rest) &&
        has(folder, "cgroup.procs"))
        return true;
    if (!outside && join(folder, m->point, p->path) && has(folder, "cgroup.procs") &&
        (!strcmp(m->root, "/") || lists(folder, pid)))
        return true;
    if (!join(folder, m->point, ""))
        return false;
    bool part = strcmp(m->root, "/") && strncmp(m->root, "/..", 3);
    return has(folder, "cgroup.procs") && ((part && !outside) || lists(folder, pid));
}

/* One level up, not above `top`. */
static bool up(char *folder, const char *top)
{
    size_t n = strlen(top);

    if (strncmp(folder, top, n) || folder[n] != '/')
        return false;
    *strrchr(folder, '/') = '\0';
    return true;
}

/* In v2 a controller may be off in the leaves: the group that counts is the nearest with its files. */
static bool climb_to(char folder[512], const char *top, const char *file)
{
    char at[512];

    strcpy(at, folder);
    do {
        if (has(at, file)) {
            strcpy(folder, at);
            return true;
        }
    } while (up(at, top));
    return false;
}

int nng_cgroup_find(int pid, struct nng_cgroup *out)
{
    struct place mem, pids;
    struct mount mm, pm;
    int err;

    memset(out, 0, sizeof *out);
    err = read_places(pid, &mem, &pids);
    if (err)
        return err == -ENOENT ? -ESRCH : err;
    find_mounts(&mem, &mm, &pids, &pm);
    if (locate(pid, &mem, &mm, out->mem)) {
        strcpy(out->mem_top, mm.point);
        if (mem.version == 1 || climb_to(out->mem, mm.point, "memory.current"))
            out->version = mem.version;
    }
    if (locate(pid, &pids, &pm, out->pids)) {
        strcpy(out->pids_top, pm.point);
        if (climb_to(out->pids, pm.point, "pids.current"))
            out->pids_version = pids.version;
    }
    if (!out->version)
        out->mem[0] = out->mem_top[0] = '\0';
    if (!out->pids_version)
        out->pids[0] = out->pids_top[0] = '\0';
    return 0;
}

/* ---- counters --------------------------------------------------------------------------------- */
static int64_t number(const char *folder, const char *file)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    return nng_probes_number(path, -1);
}

static bool text(const char *folder, const char *file, char *buf, size_t n)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    return nng_probes_slurp(path, buf, n) > 0;
}

static bool has_children(const char *folder)
{
    char path[1024];
    struct dirent *e;
    bool found = false;

    if (!nng_probes_path(path, sizeof path, "%s", folder))
        return true;
    DIR *d = opendir(path);
    if (!d)
        return true; /* not known: do not trust a hierarchical counter */
    while (!found && (e = readdir(d)))
        found = e->d_type == DT_DIR && e->d_name[0] != '.';
    closedir(d);
    return found;
}

static int64_t limit_v1(const char *folder, const char *file)
{
    int64_t v = number(folder, file);
    return v >= NO_LIMIT_V1 ? -1 : v;
}

static void mem_v1(const char *folder, struct nng_cgmem *out)
{
    char buf[512];
    int64_t both = limit_v1(folder, "memory.memsw.limit_in_bytes");

    out->usage = number(folder, "memory.usage_in_bytes");
    out->limit = limit_v1(folder, "memory.limit_in_bytes");
    out->peak = number(folder, "memory.max_usage_in_bytes");
    if (both >= 0 && out->limit >= 0 && both >= out->limit)
        out->swap_limit = both - out->limit; /* as v2 counts it: swap alone */
    out->fails = number(folder, "memory.failcnt");
    int64_t swap_fails = number(folder, "memory.memsw.failcnt");
    if (out->fails >= 0 && swap_fails > 0)
        out->fails += swap_fails;
    if (text(folder, "memory.oom_control", buf, sizeof buf))
        out->kills = nng_probes_keyed(buf, "oom_kill");
}

static void mem_v2(const char *folder, struct nng_cgmem *out)
{
    char buf[512];

    out->usage = number(folder, "memory.current");
    out->limit = number(folder, "memory.max");
    out->swap_limit = number(folder, "memory.swap.max");
    out->peak = number(folder, "memory.peak");
    out->group = number(folder, "memory.oom.group") > 0;
    if (!text(folder, "memory.events.local", buf, sizeof buf) &&
        (has_children(folder) || !text(folder, "memory.events", buf, sizeof buf)))
        return;
    int64_t max = nng_probes_keyed(buf, "max"), oom = nng_probes_keyed(buf, "oom");
    out->kills = nng_probes_keyed(buf, "oom_kill");
    if (max >= 0 || oom >= 0)
        out->fails = (max > 0 ? max : 0) + (oom > 0 ? oom : 0);
}

static int64_t oomd_kills(const char *folder)
{
    char path[1024], value[32];

    if (!nng_probes_path(path, sizeof path, "%s", folder))
        return -1;
    ssize_t n = getxattr(path, "user.oomd_kill", value, sizeof value - 1);
    if (n <= 0 || !isdigit((unsigned char)value[0]))
        return -1;
    value[n] = '\0';
    return strtoll(value, NULL, 10);
}

int nng_cgroup_mem(const char *folder, int version, struct nng_cgmem *out)
{
    memset(out, 0, sizeof *out);
    out->usage = out->limit = out->swap_limit = out->peak = -1;
    out->kills = out->fails = out->oomd = -1;
    if (version == 1)
        mem_v1(folder, out);
    else if (version == 2)
        mem_v2(folder, out);
    else
        return -EINVAL;
    out->oomd = oomd_kills(folder);
    return out->usage < 0 && out->kills < 0 && out->fails < 0 ? -ENOENT : 0;
}

int nng_cgroup_chain(const struct nng_cgroup *cg, struct nng_cglevel *out, int max)
{
    char at[512];
    int n = 0;

    if (!cg->version)
        return 0;
    strcpy(at, cg->mem);
    do {
        if (n == max)
            break;
        if (nng_cgroup_mem(at, cg->version, &out[n].mem) == 0)
            strcpy(out[n++].folder, at);
    } while (up(at, cg->mem_top));
    return n;
}

static int procs_of(const char *folder, int *pids, int max)
{
    char path[600];
    struct nng_probes_lines *l = malloc(sizeof *l);
    char *line;
    int n = 0, err;

    if (!l)
        return -ENOMEM;
    snprintf(path, sizeof path, "%s/cgroup.procs", folder);
    err = nng_probes_lines_open(l, path, 1u << 20);
    while (!err && n < max && (line = nng_probes_lines_next(l))) {
        if (!isdigit((unsigned char)line[0]))
            continue;
        pids[n] = atoi(line);
        if (pids[n++] == 0) /* it lives in a pid namespace that cannot be seen from here */
            err = -EXDEV;
    }
    nng_probes_lines_close(l);
    free(l);
    return err ? err : n;
}

/* In v2 a group below, for which the controller is off, is charged to this one. */
static int procs_below(const char *folder, int *pids, int max, int depth, int *budget)
{
    char path[1024], below[600];
    struct dirent *e;
    int n = procs_of(folder, pids, max);
    DIR *d = n >= 0 && nng_probes_path(path, sizeof path, "%s", folder) ? opendir(path) : NULL;

    if (!d)
        return n < 0 ? n : -EACCES;
    while (n >= 0 && n < max && (e = readdir(d))) {
        if (e->d_type != DT_DIR || e->d_name[0] == '.')
            continue;
        if (snprintf(below, sizeof below, "%s/%s", folder, e->d_name) >= (int)sizeof below - 32 ||
            --*budget < 0 || depth == 0)
            n = -E2BIG;
        else if (!has(below, "memory.current")) {
            int more = procs_below(below, pids + n, max - n, depth - 1, budget);
            n = more < 0 ? more : n + more;
        }
    }
    closedir(d);
    return n;
}

int nng_cgroup_procs(const char *folder, int *pids, int max)
{
    int budget = 256;

    if (has(folder, "memory.current"))
        return procs_below(folder, pids, max, 8, &budget);
    return procs_of(folder, pids, max);
}

int nng_cgroup_pids(const struct nng_cgroup *cg, int64_t *max, int64_t *current, int64_t *events,
                    char *path, size_t path_n)
{
    char at[512], best[512], buf[256];
    int64_t least = INT64_MAX;

    *max = *current = *events = -1;
    if (path_n)
        path[0] = '\0';
    if (!cg->pids_version)
        return -ENOENT;
    strcpy(at, cg->pids);
    strcpy(best, at);
    *current = number(at, "pids.current");
    /* Of several limits the one with the least room counts. */
    for (int i = 0; i < LEVELS_MAX; i++) {
        int64_t limit = number(at, "pids.max"), used = number(at, "pids.current");
        if (limit >= 0 && used >= 0 && limit - used < least) {
            least = limit - used;
            *max = limit;
            *current = used;
            strcpy(best, at);
        }
        /* Old kernels count the failure where the fork was tried, new ones where the limit is. */
        if (text(at, "pids.events", buf, sizeof buf)) {
            int64_t n = nng_probes_keyed(buf, "max");
            if (n >= 0)
                *events = n + (*events > 0 ? *events : 0);
        }
        if (!up(at, cg->pids_top))
            break;
    }
    if (path_n)
        snprintf(path, path_n, "%s", best);
    return 0;
}
