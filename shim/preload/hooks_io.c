/* SPDX-License-Identifier: MIT
 *
 * Reading and writing: the tail of what goes to fds 1 and 2, and the errors of a full disk, a quota, a
 * size limit or broken hardware. The hot path of any other fd is two comparisons.
 */
#include "rescue.h"
#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static inline bool quiet(int fd, ssize_t n)
{
    return __builtin_expect(n >= 0 && (unsigned)fd - 1u > 1u, 1) || !nng_st.on;
}

static ssize_t write_failed(int fd, int64_t asked)
{
    nng_fail(NNG_C_WRITE, errno, fd, NULL, asked);
    return -1;
}

/* Files of /dev/shm only: may it grow, and after ENOSPC: is there room now? */
static inline bool too_big(int fd, int64_t off, int64_t size)
{
    if (__builtin_expect(size == 1, 0) && nng_rescue_shm)
        nng_rescue_stretch(fd, off);
    return __builtin_expect(atomic_load_explicit(&nng_rescue_written, memory_order_relaxed) != 0,
                            0) &&
           !nng_rescue_may_grow(fd, off, size);
}

static bool again(int fd, int64_t off, int64_t size)
{
    return errno == ENOSPC && nng_rescue_shm && nng_rescue_write(fd, off, size);
}

static long copy(void *to, const void *from, size_t n)
{
    struct iovec here = {to, n}, there = {(void *)(uintptr_t)from, n};
    return nng_sys6(SYS_process_vm_readv, nng_sys0(SYS_getpid), &here, 1, &there, 1, 0);
}

/* What the kernel has written it has read, so may we; but not what went to /dev/null. */
static void tail_put(int fd, const char *from, size_t n)
{
    struct stat st;
    char part[512];
    if (nng_sys2(SYS_fstat, fd, &st) || !S_ISCHR(st.st_mode) || st.st_rdev >> 8 != 1) {
        nng_tail_put(from, n);
        return;
    }
    size_t skip = n > NNG_TAIL_SIZE ? n - NNG_TAIL_SIZE : 0;
    for (from += skip, n -= skip; n;) {
        long got = copy(part, from, n < sizeof part ? n : sizeof part);
        if (got <= 0)
            return;
        nng_tail_put(part, (size_t)got);
        from += got;
        n -= (size_t)got;
    }
}

HOOK(ssize_t, write, (int fd, const void *buf, size_t size))
{
    if (nng_signals_dump_blocks(fd)) {
        if (!nng_signals_dump_is_long(buf, size))
            nng_tail_put(buf, size);
        return (ssize_t)size;
    }
    if (too_big(fd, -1, (int64_t)size))
        return write_failed(fd, (int64_t)size);
    ssize_t n =
        NEXT(write) ? NEXT(write)(fd, buf, size) : nng_ret(nng_sys3(SYS_write, fd, buf, size));
    if (quiet(fd, n))
        return n;
    if (n < 0 && again(fd, -1, (int64_t)size))
        n = nng_ret(nng_sys3(SYS_write, fd, buf, size));
    if (n < 0)
        return write_failed(fd, (int64_t)size);
    if ((unsigned)fd - 1u <= 1u && !nng_signals_dump_is_long(buf, (size_t)n))
        tail_put(fd, buf, (size_t)n);
    return n;
}

/* Only of what the kernel has read itself: where the error says so. */
static int64_t total(const struct iovec *iov, int count)
{
    int64_t sum = 0;
    for (int i = 0; i < count; i++)
        sum += (int64_t)iov[i].iov_len;
    return sum;
}

/* Before the kernel has looked: 0 where it is going to refuse. */
static int64_t total_to_be(const struct iovec *iov, int count)
{
    struct iovec part[16];
    int64_t sum = 0;
    if (count > IOV_MAX)
        return 0;
    for (int i = 0, n; i < count; i += n) {
        n = count - i < 16 ? count - i : 16;
        if (copy(part, iov + i, (size_t)n * sizeof *part) != n * (long)sizeof *part)
            return 0;
        sum += total(part, n);
    }
    return sum;
}

HOOK(ssize_t, writev, (int fd, const struct iovec *iov, int count))
{
    int64_t size = nng_rescue_written ? total_to_be(iov, count) : 0;
    if (too_big(fd, -1, size))
        return write_failed(fd, size);
    ssize_t n =
        NEXT(writev) ? NEXT(writev)(fd, iov, count) : nng_ret(nng_sys3(SYS_writev, fd, iov, count));
    if (quiet(fd, n))
        return n;
    if (n < 0 && !nng_err_matters(errno)) /* EFAULT, EINVAL, EBADF: iov may be anything */
        return n;
    if (n < 0 && again(fd, -1, total(iov, count)))
        n = nng_ret(nng_sys3(SYS_writev, fd, iov, count));
    if (n < 0)
        return nng_err_matters(errno) ? write_failed(fd, total(iov, count)) : n;
    if ((unsigned)fd - 1u > 1u)
        return n;
    size_t left = (size_t)n;
    for (int i = 0; i < count && left; i++) {
        size_t part = iov[i].iov_len < left ? iov[i].iov_len : left;
        tail_put(fd, iov[i].iov_base, part);
        left -= part;
    }
    return n;
}

HOOK(ssize_t, pwrite, (int fd, const void *buf, size_t size, off_t off))
{
    if (too_big(fd, off, (int64_t)size))
        return write_failed(fd, (int64_t)size);
    ssize_t n = NEXT(pwrite) ? NEXT(pwrite)(fd, buf, size, off)
                             : nng_ret(nng_sys4(SYS_pwrite64, fd, buf, size, off));
    if (n < 0 && again(fd, off, (int64_t)size))
        n = nng_ret(nng_sys4(SYS_pwrite64, fd, buf, size, off));
    return n < 0 && nng_st.on ? write_failed(fd, (int64_t)size) : n;
}

HOOK(ssize_t, pwrite64, (int fd, const void *buf, size_t size, off64_t off))
{
    if (too_big(fd, off, (int64_t)size))
        return write_failed(fd, (int64_t)size);
    ssize_t n = NEXT(pwrite64) ? NEXT(pwrite64)(fd, buf, size, off)
                               : nng_ret(nng_sys4(SYS_pwrite64, fd, buf, size, off));
    if (n < 0 && again(fd, off, (int64_t)size))
        n = nng_ret(nng_sys4(SYS_pwrite64, fd, buf, size, off));
    return n < 0 && nng_st.on ? write_failed(fd, (int64_t)size) : n;
}

/* shutil copies files this way. */
HOOK(ssize_t, sendfile, (int out, int in, off_t *off, size_t size))
{
    if (too_big(out, -1, (int64_t)size))
        return write_failed(out, (int64_t)size);
    ssize_t n = NEXT(sendfile) ? NEXT(sendfile)(out, in, off, size)
                               : nng_ret(nng_sys4(SYS_sendfile, out, in, off, size));
    if (n < 0 && again(out, -1, (int64_t)size))
        n = nng_ret(nng_sys4(SYS_sendfile, out, in, off, size));
    return n < 0 && nng_st.on ? write_failed(out, (int64_t)size) : n;
}

HOOK(ssize_t, sendfile64, (int out, int in, off64_t *off, size_t size))
{
    if (too_big(out, -1, (int64_t)size))
        return write_failed(out, (int64_t)size);
    ssize_t n = NEXT(sendfile64) ? NEXT(sendfile64)(out, in, off, size)
                                 : nng_ret(nng_sys4(SYS_sendfile, out, in, off, size));
    if (n < 0 && again(out, -1, (int64_t)size))
        n = nng_ret(nng_sys4(SYS_sendfile, out, in, off, size));
    return n < 0 && nng_st.on ? write_failed(out, (int64_t)size) : n;
}

/* ---- reading ------------------------------------------------------------------------------------ */
static ssize_t read_failed(int fd, int64_t asked)
{
    nng_fail(NNG_C_READ, errno, fd, NULL, asked);
    return -1;
}

/* Of a read's errors only EIO is a cause; EAGAIN is daily bread. */
static inline bool broken(ssize_t n)
{
    return __builtin_expect(n < 0, 0) && errno == EIO && nng_st.on;
}

HOOK(ssize_t, read, (int fd, void *buf, size_t size))
{
    ssize_t n = NEXT(read) ? NEXT(read)(fd, buf, size) : nng_ret(nng_sys3(SYS_read, fd, buf, size));
    return broken(n) ? read_failed(fd, (int64_t)size) : n;
}

HOOK(ssize_t, pread, (int fd, void *buf, size_t size, off_t off))
{
    ssize_t n = NEXT(pread) ? NEXT(pread)(fd, buf, size, off)
                            : nng_ret(nng_sys4(SYS_pread64, fd, buf, size, off));
    return broken(n) ? read_failed(fd, (int64_t)size) : n;
}

HOOK(ssize_t, pread64, (int fd, void *buf, size_t size, off64_t off))
{
    ssize_t n = NEXT(pread64) ? NEXT(pread64)(fd, buf, size, off)
                              : nng_ret(nng_sys4(SYS_pread64, fd, buf, size, off));
    return broken(n) ? read_failed(fd, (int64_t)size) : n;
}

/* ---- flushing ----------------------------------------------------------------------------------- */
static int flushed(int fd, int r)
{
    if (r && nng_st.on)
        nng_fail(NNG_C_FSYNC, errno, fd, NULL, -1);
    return r;
}

HOOK(int, fsync, (int fd))
{
    return flushed(fd, NEXT(fsync) ? NEXT(fsync)(fd) : (int)nng_ret(nng_sys1(SYS_fsync, fd)));
}

HOOK(int, fdatasync, (int fd))
{
    return flushed(fd, NEXT(fdatasync) ? NEXT(fdatasync)(fd)
                                       : (int)nng_ret(nng_sys1(SYS_fdatasync, fd)));
}

HOOK(int, msync, (void *addr, size_t size, int flags))
{
    return flushed(-1, NEXT(msync) ? NEXT(msync)(addr, size, flags)
                                   : (int)nng_ret(nng_sys3(SYS_msync, addr, size, flags)));
}
