/* SPDX-License-Identifier: MIT
 *
 * What /proc/self/maps tells of a fault: the mapping of the address, of the instruction, the stack,
 * and, for a file, its size and the state of its file system at that instant. Runs in the crash
 * handler, under its claim: hence the static buffers. No libc but memory functions.
 *
 * The device in maps and st_dev differ on btrfs and overlayfs; there inode and path are compared.
 */
#include "signals.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#define GAP (1u << 20)   /* the kernel's stack guard gap: 256 pages */
#define REACH (1u << 16) /* how far from sp a frame may touch first */

struct line {
    uint64_t start, end, off, ino;
    uint32_t major, minor;
    int prot;
    bool shared;
    const char *path; /* terminated; "" where none */
};

static char buffer[8192];
static char scratch[4096 + 64];

static void copy_left_cut(char *to, const char *from)
{
    size_t n = __builtin_strlen(from);
    if (n > NNG_PATH - 1) {
        from += n - (NNG_PATH - 1);
        n = NNG_PATH - 1;
    }
    __builtin_memcpy(to, from, n);
    to[n] = 0;
}

static bool starts_with(const char *s, const char *with)
{
    return !__builtin_strncmp(s, with, __builtin_strlen(with));
}

/* ---- lines ---------------------------------------------------------------------------------------- */
static bool parse(const char *p, const char *end, struct line *l)
{
    uint64_t major, minor;
    p = nng_parse_hex(p, end, &l->start);
    if (p == end || *p++ != '-')
        return false;
    p = nng_parse_hex(p, end, &l->end);
    if (end - p < 7)
        return false;
    l->prot = (p[1] == 'r' ? PROT_READ : 0) | (p[2] == 'w' ? PROT_WRITE : 0) |
              (p[3] == 'x' ? PROT_EXEC : 0);
    l->shared = p[4] == 's';
    p = nng_parse_hex(p + 6, end, &l->off);
    p = nng_parse_hex(p + (p < end), end, &major);
    p = nng_parse_hex(p + (p < end), end, &minor);
    p = nng_parse_u64(p + (p < end), end, &l->ino);
    l->major = (uint32_t)major;
    l->minor = (uint32_t)minor;
    while (p < end && *p == ' ')
        p++;
    l->path = p;
    return true;
}

/* Calls see() for each line; a line longer than the buffer loses its end. */
static void each_line(void (*see)(const struct line *, struct nng_fault *), struct nng_fault *f)
{
    long fd = nng_sys3(SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC);
    size_t have = 0;
    bool skipping = false;
    if (fd < 0)
        return;
    for (;;) {
        long n = nng_sys3(SYS_read, fd, buffer + have, sizeof buffer - 1 - have);
        if (n == -EINTR)
            continue;
        if (n <= 0)
            break;
        have += (size_t)n;
        char *at = buffer, *nl;
        while ((nl = __builtin_memchr(at, '\n', have - (size_t)(at - buffer)))) {
            struct line l;
            *nl = 0;
            if (!skipping && parse(at, nl, &l))
                see(&l, f);
            skipping = false;
            at = nl + 1;
        }
        have -= (size_t)(at - buffer);
        __builtin_memmove(buffer, at, have);
        if (have == sizeof buffer - 1) {
            skipping = true;
            have = 0;
        }
    }
    nng_sys1(SYS_close, fd);
}

static void see_address(const struct line *l, struct nng_fault *f)
{
    static const char gone[] = " (deleted)";
    f->has_map = 1;
    f->map_start = l->start;
    f->map_end = l->end;
    f->map_off = l->off;
    f->map_major = l->major;
    f->map_minor = l->minor;
    f->map_ino = l->ino;
    f->map_prot = (uint32_t)l->prot;
    f->map_shared = l->shared;
    copy_left_cut(f->map_path, l->path);
    size_t n = __builtin_strlen(f->map_path), cut = sizeof gone - 1;
    if (n > cut && !__builtin_memcmp(f->map_path + n - cut, gone, cut)) {
        f->map_deleted = 1;
        f->map_path[n - cut] = 0;
    }
}

static void see(const struct line *l, struct nng_fault *f)
{
    if (f->addr >= l->start && f->addr < l->end)
        see_address(l, f);
    if (f->ip >= l->start && f->ip < l->end) {
        f->ip_map_start = l->start;
        f->ip_map_off = l->off;
        copy_left_cut(f->ip_path, l->path);
    }
    /* the lowest writable mapping that ends above sp: the stack, even where sp has left it */
    if (!f->stack_low && l->end > f->sp && l->prot & PROT_WRITE)
        f->stack_low = l->start;
}

/* ---- the file ------------------------------------------------------------------------------------- */
static bool same_device(const struct nng_fault *f, const struct stat *st)
{
    return st->st_dev == makedev(f->map_major, f->map_minor);
}

static char *fd_path(char *to, char *end, uint64_t fd)
{
    char *p = nng_fmt_str(to, end, "/proc/self/fd/");
    return nng_fmt_u64(p, end, fd);
}

/* The path behind fd ends in what we kept of the mapping's path. */
static bool same_path(const struct nng_fault *f, int fd)
{
    char link[40];
    fd_path(link, link + sizeof link, (uint64_t)fd);
    long n = nng_sys4(SYS_readlinkat, AT_FDCWD, link, scratch, sizeof scratch);
    size_t want = __builtin_strlen(f->map_path), cut = f->map_deleted ? sizeof " (deleted)" - 1 : 0;
    return n > 0 && (size_t)n >= want + cut &&
           !__builtin_memcmp(scratch + ((size_t)n - want - cut), f->map_path, want);
}

static bool fd_matches(const struct nng_fault *f, int fd, struct stat *st)
{
    return nng_sys2(SYS_fstat, fd, st) == 0 && st->st_ino == f->map_ino &&
           (same_device(f, st) || same_path(f, fd));
}

struct dirent64_raw {
    uint64_t ino;
    int64_t off;
    uint16_t len;
    uint8_t type;
    char name[];
};

/* An open fd on the mapped file, or -1. */
static int find_fd(const struct nng_fault *f, struct stat *st)
{
    int found = -1;
    long dir = nng_sys3(SYS_openat, AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -1;
    for (long n; found < 0 && (n = nng_sys3(SYS_getdents64, dir, buffer, sizeof buffer)) > 0;) {
        for (long at = 0; found < 0 && at < n;) {
            struct dirent64_raw *e = (void *)(buffer + at);
            uint64_t fd;
            const char *end = e->name + __builtin_strlen(e->name);
            if (nng_parse_u64(e->name, end, &fd) == end && (long)fd != dir &&
                fd_matches(f, (int)fd, st))
                found = (int)fd;
            at += e->len;
        }
    }
    nng_sys1(SYS_close, dir);
    return found;
}

static bool stat_path(const char *path, struct stat *st)
{
    return nng_sys4(SYS_newfstatat, AT_FDCWD, path, st, 0) == 0;
}

static bool stat_named(const struct nng_fault *f, struct stat *st)
{
    return !f->map_deleted && f->map_path[0] == '/' && stat_path(f->map_path, st) &&
           st->st_ino == f->map_ino;
}

/* Only for those who may (CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE). */
static bool stat_mapping(const struct nng_fault *f, struct stat *st, char *path, size_t size)
{
    char *p = nng_fmt_str(path, path + size, "/proc/self/map_files/");
    p = nng_fmt_hex(p, path + size, f->map_start);
    p = nng_fmt_str(p, path + size, "-");
    nng_fmt_hex(p, path + size, f->map_end);
    return stat_path(path, st) && st->st_ino == f->map_ino;
}

/* ---- its file system ------------------------------------------------------------------------------ */
static void put_statfs(struct nng_fault *f, long rc, const struct statfs *s)
{
    if (rc)
        return;
    f->statfs_ok = 1;
    f->fs_type = (uint64_t)s->f_type;
    f->fs_bsize = (uint64_t)s->f_bsize;
    f->fs_blocks = s->f_blocks;
    f->fs_bfree = s->f_bfree;
    f->fs_bavail = s->f_bavail;
    f->fs_files = s->f_files;
    f->fs_ffree = s->f_ffree;
}

/* Where no fd and no name leads to the file: the folder that it lay in, if that is the same device. */
static void statfs_folder(struct nng_fault *f)
{
    struct statfs s;
    struct stat st;
    if (f->map_devshm) {
        put_statfs(f, nng_sys2(SYS_statfs, "/dev/shm", &s), &s);
        return;
    }
    if (f->map_path[0] != '/' || starts_with(f->map_path, "/memfd:") ||
        starts_with(f->map_path, "/SYSV"))
        return;
    copy_left_cut(scratch, f->map_path);
    char *slash = __builtin_strrchr(scratch, '/');
    slash[slash == scratch] = 0;
    if (stat_path(scratch, &st) && same_device(f, &st))
        put_statfs(f, nng_sys2(SYS_statfs, scratch, &s), &s);
}

static void put_size(struct nng_fault *f, enum nng_size_source source, uint64_t size)
{
    f->size_source = source;
    f->file_size = size;
}

static void fill_file(struct nng_fault *f)
{
    struct stat st;
    struct statfs s;
    char path[80];
    uint64_t size, dev = makedev(f->map_major, f->map_minor);
    f->map_devshm = nng_on_devshm(dev);
    int fd = find_fd(f, &st);
    if (fd >= 0) {
        put_size(f, NNG_SZ_FD, (uint64_t)st.st_size);
        put_statfs(f, nng_sys2(SYS_fstatfs, fd, &s), &s);
    } else if (stat_named(f, &st)) {
        put_size(f, NNG_SZ_PATH, (uint64_t)st.st_size);
        put_statfs(f, nng_sys2(SYS_statfs, f->map_path, &s), &s);
    } else if (stat_mapping(f, &st, path, sizeof path)) {
        put_size(f, NNG_SZ_MAPFILE, (uint64_t)st.st_size);
        put_statfs(f, nng_sys2(SYS_statfs, path, &s), &s);
    } else {
        st.st_dev = dev;
        if (nng_size_get(dev, f->map_ino, &size))
            put_size(f, NNG_SZ_RECORDED, size);
    }
    f->map_devshm = f->map_devshm || nng_on_devshm(st.st_dev);
    if (!f->statfs_ok)
        statfs_folder(f);
}

/* ---- all of it ------------------------------------------------------------------------------------ */
static bool is_stack_overflow(const struct nng_fault *f)
{
    uint64_t low = f->stack_low;
    bool near_sp = f->addr + REACH > f->sp && f->addr < f->sp + REACH;
    bool below = f->addr < low && low - f->addr <= GAP + REACH && f->sp < low + REACH;
    bool nothing_there = !f->has_map || !(f->map_prot & PROT_WRITE);
    return (f->signo == SIGSEGV || f->signo == SIGBUS) && f->code > 0 && low && near_sp && below &&
           nothing_there;
}

void nng_maps_fill(struct nng_fault *f)
{
    each_line(see, f);
    if (f->has_map && f->map_ino)
        fill_file(f);
    f->stack_overflow = is_stack_overflow(f);
}
