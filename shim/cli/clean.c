/* SPDX-License-Identifier: MIT
 *
 * nnguard clean: names that trainers left in /dev/shm. Lists them; with --yes removes them. A name is a
 * leftover only where all of this is true: it is of a kind that trainers make; this user owns it; no
 * process that can be seen has it open or mapped; no run that is alive holds it; a name that tells its
 * maker's pid has no such process, one that does not is older than a minute.
 *
 * Only this /dev/shm: that of another mount namespace is another one. A process that cannot be seen
 * from here (another pid namespace that shares the mount) is said to be possible.
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
#define INITIAL_PIDNS 0xEFFFFFFCul

struct used { /* inodes of /dev/shm that somebody uses */
    ino_t *ino;
    size_t n, cap;
    bool lost;  /* out of memory: nothing can be called unused */
    int unseen; /* processes that could not be looked into */
};

struct leftover {
    char *name;
    int64_t bytes;
    time_t age;
    int pid; /* its maker, 0: the name does not tell */
    ino_t ino;
    bool folder;
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
static void use(struct used *u, ino_t ino)
{
    if (u->n == u->cap) {
        size_t cap = u->cap ? 2 * u->cap : 256;
        ino_t *more = realloc(u->ino, cap * sizeof *more);
        if (!more) {
            u->lost = true;
            return;
        }
        u->ino = more;
        u->cap = cap;
    }
    u->ino[u->n++] = ino;
}

static bool is_used(const struct used *u, ino_t ino)
{
    for (size_t i = 0; i < u->n; i++)
        if (u->ino[i] == ino)
            return true;
    return false;
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

static void look_at_processes(struct used *u, dev_t dev)
{
    struct dirent *e;
    DIR *d = opendir("/proc");

    if (!d) {
        u->lost = true;
        return;
    }
    while ((e = readdir(d))) {
        if (!isdigit((unsigned char)e->d_name[0]))
            continue;
        bool fds = look_at_fds(u, e->d_name, dev), maps = look_at_maps(u, e->d_name, dev);
        struct nng_pstat st;
        if ((!fds || !maps) && !nng_proc_stat(atoi(e->d_name), &st) && st.state != 'Z')
            u->unseen++;
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
                s.state != NNG_SG_FREE && (!kill((pid_t)s.pid, 0) || errno != ESRCH))
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

static bool is_leftover(int dir, const char *name, const struct used *u, struct leftover *l)
{
    struct stat st;
    time_t now = time(NULL);

    if (!trainers_name(name, &l->pid) || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) ||
        st.st_uid != geteuid() || is_used(u, st.st_ino))
        return false;
    l->folder = S_ISDIR(st.st_mode);
    l->ino = st.st_ino;
    l->bytes = (int64_t)st.st_blocks * 512;
    l->age = now > st.st_mtime ? now - st.st_mtime : 0;
    if (l->pid ? !kill(l->pid, 0) || errno != ESRCH : l->age < YOUNG_S)
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

/* ---- words ------------------------------------------------------------------------------------ */
static void show(const struct leftover *l, const char *done)
{
    char name[300], size[32], age[48], maker[64];

    nng_text_clean_line(name, sizeof name, l->name, strlen(l->name));
    nng_text_bytes(size, sizeof size, l->bytes);
    if (l->age < 7200)
        snprintf(age, sizeof age, zh ? "%ld 分钟前" : "%ld min old", (long)(l->age / 60));
    else
        snprintf(age, sizeof age, zh ? "%ld 小时前" : "%ld h old", (long)(l->age / 3600));
    if (l->pid)
        snprintf(maker, sizeof maker, zh ? "进程 %d 已不存在" : "pid %d is gone", l->pid);
    else
        snprintf(maker, sizeof maker, "%s", zh ? "无人使用" : "nobody uses it");
    printf("%s/%s  %s  %s, %s%s\n", SHM, name, size, maker, age, done);
}

static int tell(int dir, const struct found *f, const struct used *u, bool yes)
{
    struct stat ns;
    char sum[32];
    size_t failed = 0;

    for (size_t i = 0; i < f->n; i++) {
        bool ok = yes && remove_it(dir, &f->l[i]);
        failed += yes && !ok;
        show(&f->l[i], !yes ? ""
                       : ok ? (zh ? ",已删除" : ", removed")
                       : zh ? ",无法删除"
                            : ", cannot be removed");
    }
    nng_text_bytes(sum, sizeof sum, f->bytes);
    if (f->n == 0)
        puts(zh ? "/dev/shm 中没有遗留文件" : "nothing is left over in /dev/shm");
    else if (yes)
        printf(zh ? "已删除 %zu 个,共 %s\n" : "%zu removed, %s in all\n", f->n - failed, sum);
    else
        printf(zh ? "%zu 个遗留文件,共 %s;nnguard clean --yes 可删除\n"
                  : "%zu left over, %s in all; nnguard clean --yes removes them\n",
               f->n, sum);
    if (f->n && u->unseen)
        nng_cli_say(zh               ? "有 %d 个进程无法查看"
                    : u->unseen == 1 ? "%d process could not be looked into"
                                     : "%d processes could not be looked into",
                    u->unseen);
    if (f->n && !stat("/proc/self/ns/pid", &ns) && ns.st_ino != INITIAL_PIDNS)
        nng_cli_say("%s", zh ? "若其他容器共用此 /dev/shm,从这里看不到它们的进程"
                             : "processes of other containers that share this /dev/shm, if any, "
                               "cannot be seen from here");
    return failed || (f->n && !yes) ? 1 : 0;
}

int nng_cli_clean(int argc, char **argv)
{
    static const struct option options[] = {
        {"yes", no_argument, NULL, 'y'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    struct used u = {0};
    struct found f = {0};
    struct nng_style style;
    struct stat st;
    bool yes = false;
    int c;

    opterr = 0;
    while ((c = getopt_long(argc, argv, "yh", options, NULL)) != -1) {
        if (c == 'h')
            return nng_cli_help("clean");
        if (c != 'y')
            return nng_cli_bad_option(argv, "clean");
        yes = true;
    }
    if (optind < argc) {
        nng_cli_say("clean takes no argument but --yes");
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
    int status = tell(dir, &f, &u, yes);
    for (size_t i = 0; i < f.n; i++)
        free(f.l[i].name);
    free(f.l);
    free(u.ino);
    close(dir);
    return nng_cli_finish(status);
}
