/* SPDX-License-Identifier: MIT
 *
 * Shared memory and semaphores by name, and what gives a file its size: ftruncate (torch up to 2.9,
 * CPython: the first touch then kills) and the fallocate family (torch from 2.10: ENOSPC at once).
 * The size as last set is kept, since a crash handler cannot stat a file that has been unlinked.
 */
#include "rescue.h"
#include <fcntl.h>
#include <semaphore.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* "/dev/shm/" and the name, for the statfs of a failure and for the reader. */
static void in_devshm(char *out, size_t size, const char *prefix, const char *name)
{
    char *p = nng_fmt_str(out, out + size, "/dev/shm/");
    p = nng_fmt_str(p, out + size, prefix);
    nng_fmt_str(p, out + size, *name == '/' ? name + 1 : name);
}

HOOK(int, shm_open, (const char *name, int flags, mode_t mode))
{
    int fd = REAL(shm_open) ? NEXT(shm_open)(name, flags, mode) : (int)nng_ret(-ENOSYS);
    if (fd < 0 && errno == ELOOP && name) { /* libc follows no link: perhaps a rescued one */
        char path[280];
        in_devshm(path, sizeof path, "", name);
        fd = (int)nng_ret(nng_rescue_follow(path, flags | O_CLOEXEC));
    }
    if (nng_rescue_shm && flags & O_CREAT)
        nng_rescue_note_shm(fd);
    if (nng_rescue_shm)
        nng_rescue_note_open(fd);
    if (!nng_st.on || !name)
        return fd;
    int e = errno;
    nng_put(&(struct nng_put){.type = NNG_R_SHM_OPEN,
                              .call = NNG_C_SHM_OPEN,
                              .err = fd < 0 ? e : 0,
                              .a = fd,
                              .b = flags,
                              .text = name});
    if (fd < 0 && nng_err_matters(e)) {
        char path[256];
        in_devshm(path, sizeof path, "", name);
        nng_fail(NNG_C_SHM_OPEN, e, -1, path, -1);
    }
    errno = e;
    return fd;
}

HOOK(int, shm_unlink, (const char *name))
{
    uint64_t ino = 0;
    if (nng_rescue_any() && name) {
        char path[256];
        in_devshm(path, sizeof path, "", name);
        ino = nng_rescue_name_of(AT_FDCWD, path);
    }
    int r = REAL(shm_unlink) ? NEXT(shm_unlink)(name) : (int)nng_ret(-ENOSYS);
    int e = errno;
    if (!r && ino)
        nng_rescue_unlinked(ino);
    errno = e;
    if (!nng_st.on || !name)
        return r;
    nng_put(&(struct nng_put){
        .type = NNG_R_SHM_UNLINK, .call = NNG_C_SHM_UNLINK, .err = r ? e : 0, .text = name});
    errno = e;
    return r;
}

HOOK(sem_t *, sem_open, (const char *name, int flags, ...))
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    unsigned value = flags & O_CREAT ? va_arg(ap, unsigned) : 0;
    va_end(ap);
    sem_t *s =
        REAL(sem_open) ? NEXT(sem_open)(name, flags, mode, value) : (errno = ENOSYS, SEM_FAILED);
    if (s == SEM_FAILED && errno == ELOOP) /* libc follows no link: perhaps a rescued one */
        s = nng_rescue_sem_open(name);
    if (s == SEM_FAILED && errno == ENOSPC && flags & O_CREAT && nng_rescue_shm)
        s = nng_rescue_sem_create(name, flags, mode, value);
    if (!nng_st.on)
        return s;
    int e = errno;
    nng_put(&(struct nng_put){.type = NNG_R_SEM_OPEN,
                              .call = NNG_C_SEM_OPEN,
                              .err = s == SEM_FAILED ? e : 0,
                              .text = name});
    if (s == SEM_FAILED && nng_err_matters(e)) {
        char path[256];
        in_devshm(path, sizeof path, "sem.", name);
        nng_fail(NNG_C_SEM_OPEN, e, -1, path, (int64_t)sizeof(sem_t));
    }
    errno = e;
    return s;
}

/* ---- sizes -------------------------------------------------------------------------------------- */
/* `err` 0: the file now has the size that fstat tells. */
static void sized(enum nng_call call, int fd, int64_t asked, int err)
{
    if (!nng_st.on)
        return;
    int e = errno;
    struct stat st;
    if (err) {
        nng_fail(call, err, fd, NULL, asked);
    } else if (!nng_sys2(SYS_fstat, fd, &st) && S_ISREG(st.st_mode)) {
        nng_size_put(st.st_dev, st.st_ino, (uint64_t)st.st_size);
        nng_put(&(struct nng_put){.type = NNG_R_SIZE,
                                  .call = call,
                                  .flags = nng_on_devshm(st.st_dev) ? NNG_RF_DEVSHM : 0,
                                  .a = fd,
                                  .b = st.st_size,
                                  .c = (int64_t)st.st_dev,
                                  .d = (int64_t)st.st_ino});
    }
    errno = e;
}

/* A request that fits into no file has overflowed: the kernel has said so, not ENOSPC. */
static bool rescued(int fd, int64_t off, int64_t len, bool keep, int err)
{
    return __builtin_expect(err == ENOSPC, 0) && nng_rescue_shm &&
           nng_rescue_allocate(fd, off + len, keep);
}

static bool adds(int mode)
{
    return !mode || mode == FALLOC_FL_KEEP_SIZE;
}

/* What was rescued before grows: is there memory? */
static bool refused(int fd, int64_t off, int64_t len)
{
    int64_t end;
    return nng_rescue_shm && !__builtin_add_overflow(off, len, &end) &&
           nng_rescue_may_allocate(fd, end);
}

HOOK(int, ftruncate, (int fd, off_t size))
{
    int r = nng_rescue_shm ? nng_rescue_size(fd, size) : 0;
    r = r                 ? (int)nng_ret(r > 0 ? 0 : r)
        : NEXT(ftruncate) ? NEXT(ftruncate)(fd, size)
                          : (int)nng_ret(nng_sys2(SYS_ftruncate, fd, size));
    sized(NNG_C_FTRUNCATE, fd, size, r ? errno : 0);
    return r;
}

HOOK(int, ftruncate64, (int fd, off64_t size))
{
    int r = nng_rescue_shm ? nng_rescue_size(fd, size) : 0;
    r = r                   ? (int)nng_ret(r > 0 ? 0 : r)
        : NEXT(ftruncate64) ? NEXT(ftruncate64)(fd, size)
                            : (int)nng_ret(nng_sys2(SYS_ftruncate, fd, size));
    sized(NNG_C_FTRUNCATE, fd, size, r ? errno : 0);
    return r;
}

/* Both return the error and leave errno as it is. */
HOOK(int, posix_fallocate, (int fd, off_t off, off_t len))
{
    int err = refused(fd, off, len)   ? ENOSPC
              : NEXT(posix_fallocate) ? NEXT(posix_fallocate)(fd, off, len)
                                      : (int)-nng_sys4(SYS_fallocate, fd, 0, off, len);
    if (rescued(fd, off, len, false, err))
        err = 0;
    sized(NNG_C_POSIX_FALLOCATE, fd, len, err);
    return err;
}

HOOK(int, posix_fallocate64, (int fd, off64_t off, off64_t len))
{
    int err = refused(fd, off, len)     ? ENOSPC
              : NEXT(posix_fallocate64) ? NEXT(posix_fallocate64)(fd, off, len)
                                        : (int)-nng_sys4(SYS_fallocate, fd, 0, off, len);
    if (rescued(fd, off, len, false, err))
        err = 0;
    sized(NNG_C_POSIX_FALLOCATE, fd, len, err);
    return err;
}

HOOK(int, fallocate, (int fd, int mode, off_t off, off_t len))
{
    int r = adds(mode) && refused(fd, off, len) ? (int)nng_ret(-ENOSPC)
            : NEXT(fallocate)                   ? NEXT(fallocate)(fd, mode, off, len)
                              : (int)nng_ret(nng_sys4(SYS_fallocate, fd, mode, off, len));
    if (r && adds(mode) && rescued(fd, off, len, mode, errno))
        r = 0;
    sized(NNG_C_FALLOCATE, fd, len, r ? errno : 0);
    return r;
}

HOOK(int, fallocate64, (int fd, int mode, off64_t off, off64_t len))
{
    int r = adds(mode) && refused(fd, off, len) ? (int)nng_ret(-ENOSPC)
            : NEXT(fallocate64)                 ? NEXT(fallocate64)(fd, mode, off, len)
                                : (int)nng_ret(nng_sys4(SYS_fallocate, fd, mode, off, len));
    if (r && adds(mode) && rescued(fd, off, len, mode, errno))
        r = 0;
    sized(NNG_C_FALLOCATE, fd, len, r ? errno : 0);
    return r;
}
