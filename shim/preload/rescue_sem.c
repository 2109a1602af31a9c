/* SPDX-License-Identifier: MIT
 *
 * Named semaphores where not even a page of /dev/shm is free: the name is a link, the semaphore lives in
 * memory of its own (rescue.h). Also the hooks of what goes by a name and is gone: sem_unlink, sem_close,
 * unlink, unlinkat.
 *
 * Such a semaphore is known again by a mark in its page: a real one's page is empty behind it. Opened
 * twice in a process it has two addresses, where libc would give one; both are the same semaphore.
 */
#include "rescue.h"
#include <fcntl.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096u
#define MARK_AT 2048u
static const char mark[16] = "nnguard's sem_t";

/* The real sem_init knows the layout; bound like a hook, but not one. */
typedef int sem_init_type(sem_t *, int, unsigned);
static sem_init_type *real_sem_init;
static const struct nng_hook bind_sem_init = {"sem_init", (void **)&real_sem_init};
static const struct nng_hook *const bind_sem_init_p __attribute__((used, section("nng_hooks"))) =
    &bind_sem_init;

static _Atomic unsigned mapped; /* in this process and before its fork */

/* ---- names ---------------------------------------------------------------------------------------- */
/* "/dev/shm/sem.NAME", as libc makes it; false where libc would refuse the name. */
static bool file_of(const char *name, char *out, size_t size)
{
    while (*name == '/')
        name++;
    size_t n = __builtin_strlen(name);
    if (!n || n > 250 || __builtin_strchr(name, '/'))
        return false;
    nng_fmt_str(nng_fmt_str(out, out + size, "/dev/shm/sem."), out + size, name);
    return true;
}

/* ---- opening -------------------------------------------------------------------------------------- */
static sem_t *map(int mem)
{
    long p = nng_sys6(SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, mem, 0);
    if (p < 0 && p >= -4095)
        return SEM_FAILED;
    atomic_store_explicit(&mapped, 1, memory_order_relaxed);
    return (sem_t *)p;
}

static bool is_marked(const void *s)
{
    return !__builtin_memcmp((const char *)s + MARK_AT, mark, sizeof mark);
}

sem_t *nng_rescue_sem_open(const char *name)
{
    char path[280];
    struct stat st;
    int e = errno;
    if (!name || !file_of(name, path, sizeof path))
        return SEM_FAILED;
    int fd = nng_rescue_follow(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        errno = -fd;
        return SEM_FAILED;
    }
    sem_t *sem = !nng_sys2(SYS_fstat, fd, &st) && st.st_size == PAGE ? map(fd) : SEM_FAILED;
    nng_sys1(SYS_close, fd);
    if (sem != SEM_FAILED && !is_marked(sem)) {
        nng_sys2(SYS_munmap, sem, PAGE);
        sem = SEM_FAILED;
    }
    errno = e;
    return sem;
}

/* ---- creating ------------------------------------------------------------------------------------- */
static sem_t *fill(int mem, unsigned value)
{
    sem_t *sem = map(mem);
    if (sem == SEM_FAILED)
        return sem;
    real_sem_init(sem, 1, value);
    __builtin_memcpy((char *)sem + MARK_AT, mark, sizeof mark);
    return sem;
}

/* What the umask leaves of `mode`, and whether a file may be made there at all. */
static bool mode_of_new(const struct nng_segment *s, mode_t mode, struct stat *st)
{
    char path[64], *end = path + sizeof path;
    char *p = nng_fmt_u64(nng_fmt_str(path, end, "/dev/shm/.nnguard-"), end, s->pid);
    nng_fmt_u64(nng_fmt_str(p, end, "-sem-"), end, s->time_ns);
    long fd = nng_sys4(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return false;
    bool ok = !nng_sys2(SYS_fstat, fd, st) && nng_on_devshm(st->st_dev);
    nng_sys3(SYS_unlinkat, AT_FDCWD, path, 0);
    nng_sys1(SYS_close, fd);
    return ok;
}

/* 0 or -errno. */
static int create(const char *path, mode_t mode, unsigned value, sem_t **sem)
{
    struct stat st;
    struct nng_segment *s = nng_rescue_claim(PAGE, true);
    if (!s)
        return -ENOSPC;
    int mem = mode_of_new(s, mode, &st) ? nng_rescue_memory(PAGE, PAGE, PAGE, s, false) : -ENOSPC;
    *sem = mem >= 0 ? fill(mem, value) : SEM_FAILED;
    if (*sem == SEM_FAILED) {
        nng_rescue_release(s);
        if (mem >= 0)
            nng_sys1(SYS_close, mem);
        return -ENOSPC;
    }
    nng_sys2(SYS_fchmod, mem, st.st_mode & 07777);
    nng_sys3(SYS_fchown, mem, st.st_uid, st.st_gid);
    int r = nng_rescue_name(s, path, -1, NULL, mem);
    nng_sys1(SYS_close, mem);
    if (r)
        nng_sys2(SYS_munmap, *sem, PAGE);
    else
        nng_rescue_made(PAGE);
    return r;
}

sem_t *nng_rescue_sem_create(const char *name, int flags, mode_t mode, unsigned value)
{
    char path[280];
    sem_t *sem;
    int e = errno, r;
    if (!name || !real_sem_init || value > INT32_MAX || !file_of(name, path, sizeof path)) {
        errno = ENOSPC;
        return SEM_FAILED;
    }
    r = create(path, mode, value, &sem);
    if (!r) {
        errno = e;
        return sem;
    }
    if (r == -EEXIST && !(flags & O_EXCL)) { /* made by another in the meantime */
        errno = ENOSPC;
        return nng_rescue_sem_open(name);
    }
    errno = r == -EEXIST ? EEXIST : ENOSPC;
    return SEM_FAILED;
}

/* ---- closing -------------------------------------------------------------------------------------- */
HOOK(int, sem_close, (sem_t * s))
{
    /* a real one is mapped too, as a whole page whose rest reads as zeros */
    if (atomic_load_explicit(&mapped, memory_order_relaxed) && (uintptr_t)s >= PAGE &&
        !((uintptr_t)s & (PAGE - 1)) && is_marked(s))
        return (int)nng_ret(nng_sys2(SYS_munmap, s, PAGE));
    return REAL(sem_close) ? NEXT(sem_close)(s) : (int)nng_ret(-ENOSYS);
}

/* ---- names that go -------------------------------------------------------------------------------- */
static void gone(int r, uint64_t ino)
{
    int e = errno;
    if (!r && ino)
        nng_rescue_unlinked(ino);
    errno = e;
}

HOOK(int, sem_unlink, (const char *name))
{
    char path[280];
    uint64_t ino = nng_rescue_any() && file_of(name, path, sizeof path)
                       ? nng_rescue_name_of(AT_FDCWD, path)
                       : 0;
    int r = REAL(sem_unlink) ? NEXT(sem_unlink)(name) : (int)nng_ret(-ENOSYS);
    gone(r, ino);
    return r;
}

HOOK(int, unlink, (const char *path))
{
    uint64_t ino = nng_rescue_any() ? nng_rescue_name_of(AT_FDCWD, path) : 0;
    int r =
        NEXT(unlink) ? NEXT(unlink)(path) : (int)nng_ret(nng_sys3(SYS_unlinkat, AT_FDCWD, path, 0));
    gone(r, ino);
    return r;
}

HOOK(int, unlinkat, (int dir, const char *path, int flags))
{
    uint64_t ino = nng_rescue_any() && !(flags & AT_REMOVEDIR) ? nng_rescue_name_of(dir, path) : 0;
    int r = NEXT(unlinkat) ? NEXT(unlinkat)(dir, path, flags)
                           : (int)nng_ret(nng_sys3(SYS_unlinkat, dir, path, flags));
    gone(r, ino);
    return r;
}
