/* SPDX-License-Identifier: MIT
 *
 * Opening files: the last data files a process opened (a corrupt one is often the last), and the
 * failures that can be a cause. What Python opens to find and load its modules is left out.
 */
#include "rescue.h"
#include "start.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* ---- is it data? -------------------------------------------------------------------------------- */
static bool listed(const char *ext, const char *list)
{
    size_t n = __builtin_strlen(ext);
    for (const char *p = list; *p;) {
        size_t w = 0;
        while (p[w] && p[w] != ' ')
            w++;
        if (w == n && !__builtin_memcmp(p, ext, n))
            return true;
        p += w + (p[w] == ' ');
    }
    return false;
}

static bool begins(const char *path, const char *with)
{
    return !__builtin_strncmp(path, with, __builtin_strlen(with));
}

static bool is_data(const char *path)
{
    const char *slash = __builtin_strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    if (!*name || begins(path, "/proc/") || begins(path, "/sys/") || begins(path, "/dev/"))
        return false;
    const char *dot = __builtin_strrchr(name, '.');
    const char *ext = dot ? dot + 1 : "";
    if (listed(ext, "py pyc pyi so cfg toml conf cnf") || __builtin_strstr(name, ".so."))
        return false;
    if (__builtin_strstr(path, "/site-packages/") || __builtin_strstr(path, "/lib/python") ||
        __builtin_strstr(path, "/dist-packages/") || begins(path, "/etc/") || begins(path, "/usr/"))
        return listed(ext, "npz npy nii gz pkl b2nd pt h5 hdf5 mha nrrd tif tiff png json mdb");
    return true;
}

static int opened(int fd, const char *path, int flags)
{
    if (__builtin_expect(fd < 0 && errno == ELOOP && flags & O_NOFOLLOW && path && *path == '/', 0))
        fd = (int)nng_ret(nng_rescue_follow(path, flags)); /* perhaps a rescued one */
    if (nng_rescue_shm && flags & O_ACCMODE)
        nng_rescue_note_open(fd);
    if (!nng_st.on || !path)
        return fd;
    int e = errno;
    nng_launch_tidy();
    if (fd < 0)
        nng_fail(NNG_C_OPEN, e, -1, path, -1);
    else if (!(flags & (O_DIRECTORY | O_PATH | O_EXCL)) &&
             is_data(path)) /* O_EXCL: a scratch file */
        nng_file_put(path);
    errno = e;
    return fd;
}

/* ---- open and its many names -------------------------------------------------------------------- */
/* O_TMPFILE holds the bit of O_DIRECTORY: compare the whole. */
#define TAKES_MODE(flags) ((flags)&O_CREAT || ((flags)&O_TMPFILE) == O_TMPFILE)
#define GET_MODE(mode, flags)                                                                      \
    mode_t mode = 0;                                                                               \
    if (TAKES_MODE(flags)) {                                                                       \
        va_list ap;                                                                                \
        va_start(ap, flags);                                                                       \
        mode = va_arg(ap, mode_t);                                                                 \
        va_end(ap);                                                                                \
    }

static int raw_open(int dir, const char *path, int flags, mode_t mode)
{
    return (int)nng_ret(nng_sys4(SYS_openat, dir, path, flags, mode));
}

HOOK(int, open, (const char *path, int flags, ...))
{
    GET_MODE(mode, flags)
    int fd = NEXT(open) ? NEXT(open)(path, flags, mode) : raw_open(AT_FDCWD, path, flags, mode);
    return opened(fd, path, flags);
}

HOOK(int, open64, (const char *path, int flags, ...))
{
    GET_MODE(mode, flags)
    int fd = NEXT(open64) ? NEXT(open64)(path, flags, mode) : raw_open(AT_FDCWD, path, flags, mode);
    return opened(fd, path, flags);
}

HOOK(int, openat, (int dir, const char *path, int flags, ...))
{
    GET_MODE(mode, flags)
    int fd = NEXT(openat) ? NEXT(openat)(dir, path, flags, mode) : raw_open(dir, path, flags, mode);
    return opened(fd, path, flags);
}

HOOK(int, openat64, (int dir, const char *path, int flags, ...))
{
    GET_MODE(mode, flags)
    int fd =
        NEXT(openat64) ? NEXT(openat64)(dir, path, flags, mode) : raw_open(dir, path, flags, mode);
    return opened(fd, path, flags);
}

HOOK(int, creat, (const char *path, mode_t mode))
{
    int fd = NEXT(creat) ? NEXT(creat)(path, mode)
                         : raw_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
    return opened(fd, path, O_WRONLY | O_TRUNC);
}

HOOK(int, creat64, (const char *path, mode_t mode))
{
    int fd = NEXT(creat64) ? NEXT(creat64)(path, mode)
                           : raw_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
    return opened(fd, path, O_WRONLY | O_TRUNC);
}

/* The names that a program built with _FORTIFY_SOURCE calls. */
HOOK(int, __open_2, (const char *path, int flags))
{
    int fd = NEXT(__open_2) ? NEXT(__open_2)(path, flags) : raw_open(AT_FDCWD, path, flags, 0);
    return opened(fd, path, flags);
}

HOOK(int, __open64_2, (const char *path, int flags))
{
    int fd = NEXT(__open64_2) ? NEXT(__open64_2)(path, flags) : raw_open(AT_FDCWD, path, flags, 0);
    return opened(fd, path, flags);
}

HOOK(int, __openat_2, (int dir, const char *path, int flags))
{
    int fd = NEXT(__openat_2) ? NEXT(__openat_2)(dir, path, flags) : raw_open(dir, path, flags, 0);
    return opened(fd, path, flags);
}

HOOK(int, __openat64_2, (int dir, const char *path, int flags))
{
    int fd =
        NEXT(__openat64_2) ? NEXT(__openat64_2)(dir, path, flags) : raw_open(dir, path, flags, 0);
    return opened(fd, path, flags);
}

/* ---- streams ------------------------------------------------------------------------------------ */
static FILE *stream_opened(FILE *f, const char *path)
{
    if (!nng_st.on || !path)
        return f;
    int e = errno;
    if (!f)
        nng_fail(NNG_C_FOPEN, e, -1, path, -1);
    else if (is_data(path))
        nng_file_put(path);
    errno = e;
    return f;
}

HOOK(FILE *, fopen, (const char *__restrict path, const char *__restrict mode))
{
    return stream_opened(REAL(fopen)(path, mode), path);
}

HOOK(FILE *, fopen64, (const char *__restrict path, const char *__restrict mode))
{
    return stream_opened(REAL(fopen64)(path, mode), path);
}

HOOK(FILE *, freopen,
     (const char *__restrict path, const char *__restrict mode, FILE *__restrict f))
{
    return stream_opened(REAL(freopen)(path, mode, f), path);
}

HOOK(FILE *, freopen64,
     (const char *__restrict path, const char *__restrict mode, FILE *__restrict f))
{
    return stream_opened(REAL(freopen64)(path, mode, f), path);
}

/* ---- folders ------------------------------------------------------------------------------------ */
HOOK(DIR *, opendir, (const char *path))
{
    DIR *d = REAL(opendir)(path);
    if (!d && nng_st.on)
        nng_fail(NNG_C_OPEN, errno, -1, path, -1);
    return d;
}

HOOK(int, mkdir, (const char *path, mode_t mode))
{
    int r = NEXT(mkdir) ? NEXT(mkdir)(path, mode)
                        : (int)nng_ret(nng_sys3(SYS_mkdirat, AT_FDCWD, path, mode));
    if (r && nng_st.on)
        nng_fail(NNG_C_MKDIR, errno, -1, path, -1);
    return r;
}
