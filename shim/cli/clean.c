/* SPDX-License-Identifier: MIT
 *
 * nnguard clean: names that trainers left in /dev/shm. Lists them; with --yes removes them. A name is a
 * leftover only where all of this is true: it is of a kind that trainers make; this user owns it; no
 * process that can be seen has it open or mapped; no run that is alive holds it; a name that tells its
 * maker's pid has no such process, one that does not is older than a minute.
 *
 * Only this /dev/shm: that of another mount namespace is another one. From within a pid namespace
 * (a container) processes outside it cannot be seen, though they may share this /dev/shm: there nothing
 * is removed but by --force. Nor is what a process could use that could not be looked into.
 */
#include "cli.h"

#include "../../probes/probes.h"
#include "../journal/snapshot.h"
#include "../report/report.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define SHM "/dev/shm"
#define YOUNG_S 60
#define DEPTH 4

struct set {
    ino_t *v;
    size_t n, cap;
};

struct used {         /* what somebody uses */
    struct set ino;   /* inodes of /dev/shm */
    struct set pid;   /* pids that processes of inner pid namespaces know themselves by */
    bool lost;        /* out of memory: nothing can be called unused */
    int unseen;       /* processes that could not be looked into */
    int unseen_own;   /* of them this user's own */
    bool all_visible; /* no process is hidden by a pid namespace */
};

struct leftover {
    char *name;
    int64_t bytes;
    time_t age;
    int pid; /* its maker, 0: the name does not tell */
    ino_t ino;
    bool folder;
    bool open_to_others; /* by its mode */
};

struct found {
    struct leftover *l;
    size_t n, cap;
    int64_t bytes;
};

static bool zh;

/* ---- names ------------------------------------------------------------------------------------ */
/* *pid: the maker where the name tells it. */
static bool trainers_name(const char *name, int *pid)
{
    static const struct {
        const char *prefix;
        char after; /* what follows the pid; 0: no pid */
        bool folder;
    } kinds[] = {{"torch_", '_', false},
                 {"pym-", '-', false},
                 {"sem.loky-", '-', false},
                 {"loky-", '-', false},
                 {"psm_", 0, false},
                 {"sem.mp-", 0, false},
                 {"joblib_memmapping_folder_", '_', true}};

    *pid = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        size_t n = strlen(kinds[i].prefix);
        char *end;
        if (strncmp(name, kinds[i].prefix, n))
            continue;
        if (!kinds[i].after)
            return true;
        unsigned long v = isdigit((unsigned char)name[n]) ? strtoul(name + n, &end, 10) : 0;
        if (v == 0 || v > 1u << 22 || *end != kinds[i].after)
            return false;
        *pid = (int)v;
        return true;
    }
    return false;
}

/* ---- what is in use --------------------------------------------------------------------------- */
static void put(struct used *u, struct set *s, ino_t v)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 256;
        ino_t *more = realloc(s->v, cap * sizeof *more);
        if (!more) {
            u->lost = true;
            return;
        }
        s->v = more;
        s->cap = cap;
    }
    s->v[s->n++] = v;
}

static bool holds(const struct set *s, ino_t v)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->v[i] == v)
            return true;
    return false;
}

static void use(struct used *u, ino_t ino)
{
    put(u, &u->ino, ino);
}

static bool is_used(const struct used *u, ino_t ino)
{
    return holds(&u->ino, ino);
}

/* Is there a process of this number, here or in a container whose processes can be seen from here? */
static bool pid_lives(const struct used *u, int pid)
{
    return !kill(pid, 0) || errno != ESRCH || holds(&u->pid, (ino_t)pid);
}

static bool look_at_fds(struct used *u, const char *pid, dev_t dev)
{
    char path[64];
    struct dirent *e;
    struct stat st;

    snprintf(path, sizeof path, "/proc/%.16s/fd", pid);
    DIR *d = opendir(path);
    if (!d)
        return errno == ENOENT;
    while ((e = readdir(d)))
        if (!fstatat(dirfd(d), e->d_name, &st, 0) && st.st_dev == dev)
            use(u, st.st_ino);
    closedir(d);
    return true;
}

static bool look_at_maps(struct used *u, const char *pid, dev_t dev)
{
    char path[64], *line = NULL;
    size_t cap = 0;
    unsigned major, minor;
    unsigned long long ino;

    snprintf(path, sizeof path, "/proc/%.16s/maps", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return errno == ENOENT;
    while (getline(&line, &cap, f) > 0)
        if (sscanf(line, "%*s %*s %*s %x:%x %llu", &major, &minor, &ino) == 3 &&
            makedev(major, minor) == dev)
            use(u, (ino_t)ino);
    free(line);
    fclose(f);
    return true;
}

/* Its pids in inner namespaces, and whether it could open what only this user may. */
static bool look_at_status(struct used *u, const char *pid)
{
    char path[64], *line = NULL;
    size_t cap = 0;
    unsigned long v;
    unsigned uid, euid;
    bool own = true;

    snprintf(path, sizeof path, "/proc/%.16s/status", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return errno != ENOENT;
    while (getline(&line, &cap, f) > 0) {
        if (sscanf(line, "Uid: %u %u", &uid, &euid) == 2)
            own = uid == geteuid() || euid == geteuid();
        if (strncmp(line, "NSpid:", 6))
            continue;
        char *end, *p = line + 6;
        for (bool outer = true; (v = strtoul(p, &end, 10)), end != p; p = end, outer = false)
            if (!outer)
                put(u, &u->pid, (ino_t)v);
    }
    free(line);
    fclose(f);
    return own;
}

/* Kernel threads have neither memory nor descriptors, and the machine's init is no trainer. Neither may
 * be looked into by an ordinary user. */
static bool is_systems(const struct used *u, const struct nng_pstat *st)
{
    return u->all_visible && (st->pid <= 2 || st->ppid == 2);
}

static void look_at_processes(struct used *u, dev_t dev)
{
    struct dirent *e;
    DIR *d = opendir("/proc");

    if (!d) {
        u->lost = true;
        return;
    }
    u->all_visible = nng_devshm_all_visible();
    while ((e = readdir(d))) {
        struct nng_pstat st;
        if (!isdigit((unsigned char)e->d_name[0]))
            continue;
        bool fds = look_at_fds(u, e->d_name, dev), maps = look_at_maps(u, e->d_name, dev);
        bool own = look_at_status(u, e->d_name);
        if ((fds && maps) || nng_proc_stat(atoi(e->d_name), &st) || st.state == 'Z' ||
            is_systems(u, &st))
            continue;
        u->unseen++;
        u->unseen_own += own;
    }
    closedir(d);
}

/* A rescued segment's name is held by its run's monitor, which was just seen; without one the table
 * tells it. */
static void look_at_runs(struct used *u)
{
    struct nng_runs runs = {0};
    char path[600];

    nng_runs_scan_all(&runs);
    for (size_t i = 0; i < runs.n; i++) {
        struct nng_view v;
        if (snprintf(path, sizeof path, "%s/journal", runs.run[i].dir) >= (int)sizeof path ||
            nng_view_open(&v, path, -1, false))
            continue;
        for (unsigned k = 0; k < NNG_SEGMENTS_N; k++) {
            struct nng_segment s;
            off_t at = (off_t)offsetof(struct nng_journal, segments) + (off_t)(k * sizeof s);
            if (pread(v.fd, &s, sizeof s, at) == (ssize_t)sizeof s && s.ino && s.pid &&
                s.state != NNG_SG_FREE && pid_lives(u, (int)s.pid))
                use(u, (ino_t)s.ino);
        }
        nng_view_close(&v);
    }
    nng_runs_free(&runs);
}

/* ---- leftovers -------------------------------------------------------------------------------- */
/* Sum of a folder; false: something in it is used, young or not ours. */
static bool look_into(int dir, const char *name, const struct used *u, time_t now, int64_t *bytes,
                      int depth)
{
    struct stat st;
    struct dirent *e;
    bool ok = true;
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

    if (!d) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    while (ok && (e = readdir(d))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        ok = !fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) && st.st_uid == geteuid() &&
             !is_used(u, st.st_ino) && st.st_mtime + YOUNG_S <= now &&
             (!S_ISDIR(st.st_mode) ||
              (depth < DEPTH && look_into(dirfd(d), e->d_name, u, now, bytes, depth + 1)));
        *bytes += (int64_t)st.st_blocks * 512;
    }
    closedir(d);
    return ok;
}

/* Rescue puts such a link in the place of a name: /proc/PID/fd/N, a descriptor that holds the memory.
 * False: it is none, or (also where that cannot be seen) its memory is still there. */
static bool is_dead_link(int dir, const char *name, const struct used *u, int *pid)
{
    char to[64], target[64];
    int fd, used = 0;
    ssize_t n = readlinkat(dir, name, to, sizeof to - 1);

    if (n <= 0)
        return false;
    to[n] = '\0';
    if (sscanf(to, "/proc/%d/fd/%d%n", pid, &fd, &used) != 2 || to[used] || *pid <= 0)
        return false;
    if (!pid_lives(u, *pid))
        return true;
    n = readlink(to, target, sizeof target - 1);
    if (n < 0)
        return errno == ENOENT && !holds(&u->pid, (ino_t)*pid);
    target[n] = '\0';
    return strncmp(target, "/memfd:", 7) != 0 && !holds(&u->pid, (ino_t)*pid);
}

static bool is_leftover(int dir, const char *name, const struct used *u, struct leftover *l)
{
    struct stat st;
    time_t now = time(NULL);

    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) || st.st_uid != geteuid() ||
        is_used(u, st.st_ino))
        return false;
    l->folder = S_ISDIR(st.st_mode);
    l->ino = st.st_ino;
    l->bytes = (int64_t)st.st_blocks * 512;
    l->age = now > st.st_mtime ? now - st.st_mtime : 0;
    if (S_ISLNK(st.st_mode))
        return is_dead_link(dir, name, u, &l->pid);
    if (!trainers_name(name, &l->pid))
        return false;
    l->open_to_others = (st.st_mode & 077) != 0;
    if (l->pid ? pid_lives(u, l->pid) : l->age < YOUNG_S)
        return false;
    if (l->folder)
        return l->pid && look_into(dir, name, u, now, &l->bytes, 0);
    return S_ISREG(st.st_mode);
}

static void look_at_names(int dir, const struct used *u, struct found *f)
{
    struct dirent *e;
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

    while (d && (e = readdir(d))) {
        struct leftover l = {0};
        if (!is_leftover(dir, e->d_name, u, &l))
            continue;
        if (f->n == f->cap) {
            size_t cap = f->cap ? 2 * f->cap : 64;
            struct leftover *more = realloc(f->l, cap * sizeof *more);
            if (!more)
                break;
            f->l = more;
            f->cap = cap;
        }
        if (!(l.name = strdup(e->d_name)))
            break;
        f->l[f->n++] = l;
        f->bytes += l.bytes;
    }
    if (d)
        closedir(d);
    else if (fd >= 0)
        close(fd);
}

/* ---- removing --------------------------------------------------------------------------------- */
static bool remove_folder(int dir, const char *name, int depth)
{
    struct dirent *e;
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

    if (!d) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    while ((e = readdir(d))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        if (unlinkat(dirfd(d), e->d_name, 0) && errno == EISDIR && depth < DEPTH)
            remove_folder(dirfd(d), e->d_name, depth + 1);
    }
    closedir(d);
    return !unlinkat(dir, name, AT_REMOVEDIR);
}

static bool remove_it(int dir, const struct leftover *l)
{
    struct stat st;

    if (fstatat(dir, l->name, &st, AT_SYMLINK_NOFOLLOW))
        return errno == ENOENT;
    if (st.st_ino != l->ino || st.st_uid != geteuid())
        return false;
    return l->folder ? remove_folder(dir, l->name, 0) : !unlinkat(dir, l->name, 0);
}

/* May a process use it that could not be looked into? */
static bool may_be_used(const struct leftover *l, const struct used *u)
{
    return u->unseen_own || (u->unseen && l->open_to_others);
}

/* ---- words ------------------------------------------------------------------------------------ */
static void show(const struct leftover *l, const struct used *u, const char *done)
{
    char name[300], size[32], age[48], maker[64];

    nng_text_clean_line(name, sizeof name, l->name, strlen(l->name));
    nng_text_bytes(size, sizeof size, l->bytes);
    if (l->age < 7200)
        snprintf(age, sizeof age, zh ? "%ld 分钟前" : "%ld min old", (long)(l->age / 60));
    else
        snprintf(age, sizeof age, zh ? "%ld 小时前" : "%ld h old", (long)(l->age / 3600));
    if (l->pid && u->all_visible)
        snprintf(maker, sizeof maker, zh ? "进程 %d 已不存在" : "pid %d is gone", l->pid);
    else if (l->pid)
        snprintf(maker, sizeof maker, zh ? "从这里看不到进程 %d" : "pid %d is not seen from here",
                 l->pid);
    else if (u->all_visible)
        snprintf(maker, sizeof maker, "%s", zh ? "无人使用" : "nobody uses it");
    else
        snprintf(maker, sizeof maker, "%s",
                 zh ? "从这里看无人使用" : "nobody seen from here uses it");
    printf("%s/%s  %s  %s, %s%s\n", SHM, name, size, maker, age, done);
}

/* What cannot be seen, before anything is removed. */
static void warn(const struct used *u)
{
    if (u->unseen)
        nng_cli_say(zh               ? "有 %d 个进程无法查看"
                    : u->unseen == 1 ? "%d process could not be looked into"
                                     : "%d processes could not be looked into",
                    u->unseen);
    if (!u->all_visible)
        nng_cli_say("%s",
                    zh ? "若其他容器共用此 /dev/shm,从这里看不到它们的进程:列出的文件可能仍在使用"
                       : "processes of other containers that share this /dev/shm, if any, "
                         "cannot be seen from here: what is listed may be in use");
}

static const char *remove_or_keep(int dir, const struct leftover *l, const struct used *u,
                                  bool force, size_t *kept)
{
    if (!force && may_be_used(l, u)) {
        ++*kept;
        return zh ? ",保留:无法查看的进程可能在使用"
                  : ", kept: a process that could not be looked into may use it";
    }
    if (remove_it(dir, l))
        return zh ? ",已删除" : ", removed";
    ++*kept;
    return zh ? ",无法删除" : ", cannot be removed";
}

static int tell(int dir, const struct found *f, const struct used *u, bool yes, bool force)
{
    char sum[32];
    size_t kept = 0;

    if (f->n == 0) {
        puts(zh ? "/dev/shm 中没有遗留文件" : "nothing is left over in /dev/shm");
        return 0;
    }
    warn(u);
    for (size_t i = 0; i < f->n; i++)
        show(&f->l[i], u, yes ? remove_or_keep(dir, &f->l[i], u, force, &kept) : "");
    nng_text_bytes(sum, sizeof sum, f->bytes);
    if (yes)
        printf(zh ? "已删除 %zu 个,共 %zu 个,合计 %s\n" : "%zu of %zu removed, %s in all\n",
               f->n - kept, f->n, sum);
    else
        printf(zh ? "%zu 个遗留文件,共 %s;nnguard clean --yes%s 可删除\n"
                  : "%zu left over, %s in all; nnguard clean --yes%s removes them\n",
               f->n, sum, u->all_visible ? "" : " --force");
    return kept || !yes ? 1 : 0;
}

int nng_cli_clean(int argc, char **argv)
{
    static const struct option options[] = {{"yes", no_argument, NULL, 'y'},
                                            {"force", no_argument, NULL, 'f'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct used u = {0};
    struct found f = {0};
    struct nng_style style;
    struct stat st;
    bool yes = false, force = false;
    int c, status;

    opterr = 0;
    while ((c = getopt_long(argc, argv, "yfh", options, NULL)) != -1) {
        if (c == 'h')
            return nng_cli_help("clean");
        if (c != 'y' && c != 'f')
            return nng_cli_bad_option(argv, "clean");
        yes |= c == 'y';
        force |= c == 'f';
    }
    if (optind < argc) {
        nng_cli_say("clean takes no argument but --yes and --force");
        return NNG_USAGE;
    }
    nng_style_from_env(&style, 1);
    zh = style.lang == NNG_ZH && style.utf8;
    int dir = open(SHM, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 || fstat(dir, &st)) {
        nng_cli_say("/dev/shm cannot be read: %s", strerror(errno));
        return NNG_USAGE;
    }
    look_at_processes(&u, st.st_dev);
    look_at_runs(&u);
    if (u.lost) {
        nng_cli_say("it cannot be seen what is in use: nothing is listed");
        return NNG_USAGE;
    }
    look_at_names(dir, &u, &f);
    if (f.n && yes && !force && !u.all_visible) {
        nng_cli_say(
            "%s",
            zh ? "未删除任何文件:从容器内看不到可能在使用它们的其他容器的进程;确认后可加 --force"
               : "nothing is removed: other containers may use this /dev/shm, and from "
                 "inside one that cannot be seen; --force removes all the same");
        status = NNG_USAGE;
    } else {
        status = tell(dir, &f, &u, yes, force);
    }
    for (size_t i = 0; i < f.n; i++)
        free(f.l[i].name);
    free(f.l);
    free(u.ino.v);
    free(u.pid.v);
    close(dir);
    return nng_cli_finish(status);
}
