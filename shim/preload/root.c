/* SPDX-License-Identifier: MIT
 *
 * The root's work before the run exists: a folder that can be used, the run's own folder in it, the
 * journal with all its blocks allocated (a sparse one would kill its writers on a full disk), the
 * header. Folders are tried in order; a folder is taken only if it is ours, no symbolic link, and
 * not on /dev/shm, whose exhaustion is the very thing to report. [init]
 */
#include "start.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

static char run_dir[512];
static char journal_path[544];

uint64_t nng_root_shm_dev(void)
{
    struct stat shm, root;
    if (nng_sys4(SYS_newfstatat, AT_FDCWD, "/dev/shm", &shm, 0) || !S_ISDIR(shm.st_mode))
        return 0;
    /* a plain folder of the root file system is no shared memory: a full disk is a full disk */
    if (!nng_sys4(SYS_newfstatat, AT_FDCWD, "/", &root, 0) && root.st_dev == shm.st_dev)
        return 0;
    return shm.st_dev;
}

static const char *reason(long err)
{
    switch (-err) {
    case EACCES:
    case EPERM:
        return "permission denied";
    case ENOSPC:
        return "no space left there";
    case EDQUOT:
        return "quota exceeded";
    case EROFS:
        return "read-only file system";
    case ENOTDIR:
        return "not a folder";
    case ELOOP:
        return "a symbolic link";
    case ENOENT:
        return "cannot be made";
    case EFBIG:
        return "file size limit";
    case ENAMETOOLONG:
        return "name too long";
    default:
        return "cannot be written";
    }
}

/* ---- the folder of all runs --------------------------------------------------------------------- */
/* What was made of the last path: its components from this length on. */
static struct {
    char dir[512];
    size_t from;
} made;

static long make_with_parents(const char *dir)
{
    char *end = nng_fmt_str(made.dir, made.dir + sizeof made.dir, dir);
    long r = -ENOENT;
    made.from = 0;
    for (char *p = made.dir + 1; p <= end; p++) {
        if (p < end && *p != '/')
            continue;
        bool last = p == end;
        *p = 0;
        r = nng_sys3(SYS_mkdirat, AT_FDCWD, made.dir, last ? 0700 : 0755);
        if (!r && !made.from)
            made.from = (size_t)(p - made.dir);
        if (!last)
            *p = '/';
    }
    return r;
}

/* What was made in vain goes again, as far as it is empty. */
static void unmake(void)
{
    size_t n = __builtin_strlen(made.dir);
    while (made.from && n >= made.from) {
        made.dir[n] = 0;
        if (nng_sys3(SYS_unlinkat, AT_FDCWD, made.dir, AT_REMOVEDIR))
            break;
        while (n > 1 && made.dir[--n] != '/')
            ;
    }
    made.from = 0;
}

/* Opens the folder, made where it is missing. Its fd, or -1 and *why. */
static long open_base(const char *dir, uint64_t shm_dev, bool asked, const char **why)
{
    struct stat st;
    const int how = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    long fd = nng_sys4(SYS_openat, AT_FDCWD, dir, how, 0);
    made.from = 0;
    if (fd == -ENOENT) {
        long r = make_with_parents(dir);
        fd = r && r != -EEXIST ? r : nng_sys4(SYS_openat, AT_FDCWD, dir, how, 0);
    }
    if (fd < 0) {
        bool link = fd == -ENOTDIR &&
                    !nng_sys4(SYS_newfstatat, AT_FDCWD, dir, &st, AT_SYMLINK_NOFOLLOW) &&
                    S_ISLNK(st.st_mode);
        *why = reason(link ? -ELOOP : fd);
        unmake();
        return -1;
    }
    if (nng_sys2(SYS_fstat, fd, &st))
        *why = "cannot be examined";
    else if (st.st_uid != nng_me.uid)
        *why = "it belongs to another user";
    else if (!asked && st.st_mode & 022)
        *why = "others may write to it";
    else if (shm_dev && st.st_dev == shm_dev)
        *why = "it lies on /dev/shm";
    else
        return fd;
    nng_sys1(SYS_close, fd);
    unmake();
    return -1;
}

/* ---- the run's own folder ----------------------------------------------------------------------- */
static char *two(char *p, unsigned v)
{
    *p++ = (char)('0' + v / 10 % 10);
    *p++ = (char)('0' + v % 10);
    return p;
}

/* YYYYMMDDTHHMMSSZ; days to date after H. Hinnant's civil calendar (years begin in March). */
static char *put_time(char *p, int64_t t)
{
    int64_t days = t / 86400 + 719468;
    unsigned sec = (unsigned)(t % 86400);
    unsigned era = (unsigned)(days / 146097), doe = (unsigned)(days % 146097);
    unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    unsigned day = doy - (153 * mp + 2) / 5 + 1, month = mp < 10 ? mp + 3 : mp - 9;
    unsigned year = yoe + era * 400 + (month <= 2);
    p = two(two(two(two(p, year / 100), year % 100), month), day);
    *p++ = 'T';
    p = two(two(two(p, sec / 3600), sec / 60 % 60), sec % 60);
    *p++ = 'Z';
    *p = 0;
    return p;
}

static void put_host(char *out, size_t size)
{
    struct utsname u;
    const char *h = nng_sys1(SYS_uname, &u) ? "" : u.nodename;
    size_t n = 0;
    for (; h[n] && n < size - 1; n++) {
        char c = h[n];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '.' || c == '_' || (c == '-' && n);
        out[n] = plain ? c : '_';
    }
    out[n] = 0;
    if (!n)
        nng_fmt_str(out, out + size, "host");
}

/* Makes the run's folder below `base` (its fd). 0 and run_dir, or -errno. */
static long make_run_dir(long base, const char *dir, int64_t now)
{
    char host[64], name[160], *end = name + sizeof name;
    put_host(host, sizeof host);
    char *p = put_time(name, now);
    p = nng_fmt_str(nng_fmt_str(nng_fmt_str(p, end, "-"), end, host), end, "-");
    char *stem = nng_fmt_u64(p, end, (uint64_t)nng_me.pid);
    long r = -EEXIST;
    for (unsigned n = 1; n < 1000 && r == -EEXIST; n++) {
        if (n > 1)
            nng_fmt_u64(nng_fmt_str(stem, end, "-"), end, n);
        r = nng_sys3(SYS_mkdirat, base, name, 0700);
    }
    if (r)
        return r;
    char *end_of_dir = run_dir + sizeof run_dir;
    nng_fmt_str(nng_fmt_str(nng_fmt_str(run_dir, end_of_dir, dir), end_of_dir, "/"), end_of_dir,
                name);
    nng_fmt_str(nng_fmt_str(journal_path, journal_path + sizeof journal_path, run_dir),
                journal_path + sizeof journal_path, "/journal");
    return 0;
}

void nng_start_remove_run(void)
{
    if (!run_dir[0] && nng_journal && nng_st.root) { /* this root exec'd itself meanwhile */
        nng_fmt_str(run_dir, run_dir + sizeof run_dir, nng_journal->hdr.run_dir);
        nng_fmt_str(nng_fmt_str(journal_path, journal_path + sizeof journal_path, run_dir),
                    journal_path + sizeof journal_path, "/journal");
    }
    if (!run_dir[0])
        return;
    nng_sys3(SYS_unlinkat, AT_FDCWD, journal_path, 0);
    nng_sys3(SYS_unlinkat, AT_FDCWD, run_dir, AT_REMOVEDIR);
}

/* ---- the journal -------------------------------------------------------------------------------- */
static long write_zeros(long fd, size_t size)
{
    static const char zeros[4096];
    for (size_t at = 0; at < size;) {
        size_t n = size - at < sizeof zeros ? size - at : sizeof zeros;
        long w = nng_sys4(SYS_pwrite64, fd, zeros, n, at);
        if (w == -EINTR)
            continue;
        if (w <= 0)
            return w ? w : -EIO;
        at += (size_t)w;
    }
    return 0;
}

struct limit {
    uint64_t soft, hard;
};

static long allocate(long fd, size_t size)
{
    long r;
    do
        r = nng_sys4(SYS_fallocate, fd, 0, 0, size);
    while (r == -EINTR);
    return r == -EOPNOTSUPP || r == -ENOSYS || r == -EINVAL ? write_zeros(fd, size) : r;
}

/* Room for the journal under RLIMIT_FSIZE: without it the allocation would send us SIGXFSZ. *old is
 * what to put back; false: even the hard limit is too small. */
static bool raise_fsize(struct limit *old)
{
    const uint64_t need = sizeof(struct nng_journal);
    if (nng_sys4(SYS_prlimit64, 0, RLIMIT_FSIZE, NULL, old))
        *old = (struct limit){~0ULL, ~0ULL};
    if (old->soft >= need)
        return true;
    struct limit more = {need, old->hard};
    return old->hard >= need && !nng_sys4(SYS_prlimit64, 0, RLIMIT_FSIZE, &more, NULL);
}

static long allocate_within_limit(long fd)
{
    struct limit old;
    if (!raise_fsize(&old))
        return -EFBIG;
    long r = allocate(fd, sizeof(struct nng_journal));
    if (old.soft < sizeof(struct nng_journal))
        nng_sys4(SYS_prlimit64, 0, RLIMIT_FSIZE, &old, NULL);
    return r;
}

/* With stdin, stdout or stderr closed the journal must not become one of them: a line of ours or of
 * the program would be written into it. */
static long above_stdio(long fd)
{
    if (fd < 0 || fd > 2)
        return fd;
    long high = nng_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
    nng_sys1(SYS_close, fd);
    return high;
}

/* btrfs writes every page to a new place, for which a full disk has no room; not those of a file that
 * was marked while it was empty (from kernel 6.16 on that holds for mappings, too). */
static void keep_in_place(long fd)
{
    struct statfs fs;
    unsigned flags;
    if (nng_sys2(SYS_fstatfs, fd, &fs) || ((unsigned long)fs.f_type & 0xffffffffUL) != 0x9123683e ||
        nng_sys3(SYS_ioctl, fd, FS_IOC_GETFLAGS, &flags))
        return;
    flags |= FS_NOCOW_FL;
    nng_sys3(SYS_ioctl, fd, FS_IOC_SETFLAGS, &flags);
}

static long map_journal(long fd, struct nng_journal **map)
{
    keep_in_place(fd);
    long r = allocate_within_limit(fd);
    if (r)
        return r;
    r = nng_sys6(SYS_mmap, 0, sizeof(struct nng_journal), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                 0);
    if (r < 0 && r >= -4095)
        return r;
    /* without it the first touch reads ahead, that is fills with zeros, up to the whole file: 0.4 ms */
    nng_sys3(SYS_madvise, r, sizeof(struct nng_journal), MADV_RANDOM);
    *map = (struct nng_journal *)r;
    return 0;
}

/* Folder, run folder and journal below `dir`: the journal's fd, or -1 and *why. */
static long try_dir(const char *dir, bool asked, int64_t now, struct nng_journal **map,
                    const char **why)
{
    char abs[320];
    if (!nng_ids_absolute(dir, abs, sizeof abs)) {
        *why = reason(-ENAMETOOLONG);
        return -1;
    }
    long base = open_base(abs, nng_root_shm_dev(), asked, why);
    if (base < 0)
        return -1;
    long r = make_run_dir(base, abs, now);
    nng_sys1(SYS_close, base);
    if (!r) {
        long fd = above_stdio(nng_sys4(SYS_openat, AT_FDCWD, journal_path,
                                       O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
        r = fd < 0 ? fd : map_journal(fd, map);
        if (!r)
            return fd;
        if (fd >= 0)
            nng_sys1(SYS_close, fd);
        nng_start_remove_run();
    }
    unmake();
    run_dir[0] = 0;
    *why = reason(r);
    return -1;
}

static bool is_folder(const char *path)
{
    struct stat st;
    return !nng_sys4(SYS_newfstatat, AT_FDCWD, path, &st, 0) && S_ISDIR(st.st_mode);
}

/* A home that does not exist is not for us to make. */
static void state_folder(char *out, size_t size)
{
    const char *home = nng_env("HOME"), *state = nng_env("XDG_STATE_HOME");
    char *end = out + size;
    size_t n = home ? __builtin_strlen(home) : 0;
    bool at_home = n > 0 && is_folder(home);
    if (state && *state) {
        if (is_folder(state) || (at_home && !__builtin_strncmp(state, home, n) && state[n] == '/'))
            nng_fmt_str(nng_fmt_str(out, end, state), end, "/nnguard");
    } else if (at_home) {
        nng_fmt_str(nng_fmt_str(out, end, home), end, "/.local/state/nnguard");
    }
}

/* The i-th folder to try; false: no more. An empty *out: skip it. */
static bool candidate(unsigned i, char *out, size_t size)
{
    char *p = out, *end = out + size;
    const char *v = NULL;
    *out = 0;
    switch (i) {
    case 0:
        v = nng_env("NNGUARD_DIR");
        nng_fmt_str(p, end, v ? v : "");
        return true;
    case 1:
        v = nng_env("TMPDIR");
        p = nng_fmt_str(p, end, v && *v ? v : "/tmp");
        break;
    case 2:
        p = nng_fmt_str(p, end, "/var/tmp");
        break;
    case 3:
        state_folder(out, size);
        return true;
    case 4:
        p = nng_fmt_str(p, end, ".");
        break;
    default:
        return false;
    }
    nng_fmt_u64(nng_fmt_str(p, end, "/nnguard-"), end, nng_me.uid);
    return true;
}

static long in_memory(struct nng_journal **map)
{
    long fd = above_stdio(nng_sys2(SYS_memfd_create, "nnguard-journal", MFD_CLOEXEC));
    long r = fd < 0 ? fd : map_journal(fd, map);
    if (!r)
        return fd;
    if (fd >= 0)
        nng_sys1(SYS_close, fd);
    return r;
}

static void fill_header(struct nng_journal *j, const struct timespec *real)
{
    struct nng_header *h = &j->hdr;
    int subreaper = 0;
    h->version = NNG_VERSION;
    h->header_size = sizeof *h;
    h->file_size = sizeof *j;
    __builtin_memcpy(h->boot_id, nng_me.boot_id, sizeof h->boot_id);
    h->pidns = nng_me.pidns;
    h->uid = nng_me.uid;
    h->root_pid = (uint32_t)nng_me.pid;
    h->root_start_ticks = nng_me.ticks;
    h->start_real_ns = (uint64_t)real->tv_sec * 1000000000u + (uint64_t)real->tv_nsec;
    h->start_boot_ns = nng_now();
    h->shm_dev = nng_root_shm_dev();
    h->root_code = -1;
    h->rank = nng_ids_rank();
    h->flags = nng_me.pid == 1 ? NNG_HF_PID1 : 0;
    if (!nng_sys5(SYS_prctl, PR_GET_CHILD_SUBREAPER, &subreaper, 0, 0, 0) && subreaper)
        h->flags |= NNG_HF_SUBREAPER;
    put_host(h->host, sizeof h->host);
    __builtin_memcpy(h->run_dir, run_dir, sizeof h->run_dir);
    nng_ids_command(h->command, sizeof h->command);
    nng_ids_env(h->env, sizeof h->env);
    __atomic_store_n(&h->magic, NNG_MAGIC, __ATOMIC_RELEASE); /* last: now it is a journal */
}

int nng_root_make(const char **path, struct nng_journal **map, bool speak)
{
    struct timespec real = {0};
    char dir[320], next[320];
    const char *why = "none", *asked_why = NULL;
    long fd = -1;
    clock_gettime(CLOCK_REALTIME, &real);
    dir[0] = 0;
    for (unsigned i = 0; fd < 0 && candidate(i, next, sizeof next); i++) {
        if (!next[0])
            continue;
        nng_fmt_str(dir, dir + sizeof dir, next);
        fd = try_dir(dir, i == 0, real.tv_sec, map, &why);
        if (i == 0 && fd < 0)
            asked_why = why;
    }
    if (fd >= 0 && asked_why && speak)
        nng_say("NNGUARD_DIR=", nng_env("NNGUARD_DIR"), " cannot be used (", asked_why,
                "): this run is kept in ", run_dir, NULL);
    if (fd < 0) {
        fd = in_memory(map);
        if (speak)
            nng_say("no folder can be written (last: ", dir, ": ", why, "); ",
                    fd < 0 ? "this run is not guarded" : "the journal is kept in memory only",
                    NULL);
        journal_path[0] = run_dir[0] = 0;
    }
    if (fd >= 0)
        fill_header(*map, &real);
    *path = journal_path;
    return (int)fd;
}
