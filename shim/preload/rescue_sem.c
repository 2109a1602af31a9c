/* SPDX-License-Identifier: MIT
 *
 * Named semaphores where not even a page of /dev/shm is free: an empty file keeps the name, the
 * semaphore lives in memory of its own (rescue.h). Also the hooks of what goes by a name and is gone:
 * sem_unlink, sem_close, unlink, unlinkat.
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
    return p < 0 && p >= -4095 ? SEM_FAILED : (sem_t *)p;
}

static sem_t *open_existing(int name_fd, int *err)
{
    struct stat st;
    struct nng_segment *s = !nng_sys2(SYS_fstat, name_fd, &st) && nng_on_devshm(st.st_dev)
                                ? nng_rescue_find(name_fd, &st)
                                : NULL;
    if (!s) {
        *err = 0;
        return SEM_FAILED;
    }
    int mem = nng_rescue_reopen(s, O_RDWR);
    if (mem < 0) {
        *err = -mem;
        return SEM_FAILED;
    }
    sem_t *sem = map(mem);
    *err = ENOMEM;
    nng_sys1(SYS_close, mem);
    return sem;
}

sem_t *nng_rescue_sem_open(const char *name, bool *ours)
{
    char path[280];
    int err = 0;
    *ours = false;
    if (!name || !file_of(name, path, sizeof path))
        return SEM_FAILED;
    long fd = nng_sys4(SYS_openat, AT_FDCWD, path, O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0)
        return SEM_FAILED;
    sem_t *sem = open_existing((int)fd, &err);
    nng_sys1(SYS_close, fd);
    *ours = sem != SEM_FAILED || err;
    if (sem == SEM_FAILED && err)
        errno = err;
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

static sem_t *create(int name_fd, unsigned value)
{
    struct stat st;
    struct nng_segment *s = nng_rescue_claim(PAGE);
    int mem = s ? nng_rescue_memory(PAGE, PAGE, s) : -ENOSPC;
    sem_t *sem = mem >= 0 && !nng_sys2(SYS_fstat, name_fd, &st) && nng_on_devshm(st.st_dev)
                     ? fill(mem, value)
                     : SEM_FAILED;
    if (sem == SEM_FAILED) {
        nng_rescue_release(s);
    } else {
        nng_sys2(SYS_fchmod, mem, st.st_mode & 07777);
        nng_sys2(SYS_ftruncate, name_fd, sizeof(sem_t));
        nng_rescue_publish(s, name_fd, &st, mem);
        s->name_fd = s->mem_fd = -1; /* both are closed now: only the monitor has it */
    }
    if (mem >= 0)
        nng_sys1(SYS_close, mem);
    return sem;
}

sem_t *nng_rescue_sem_create(const char *name, int flags, mode_t mode, unsigned value)
{
    char path[280];
    if (!real_sem_init || value > INT32_MAX || !file_of(name, path, sizeof path)) {
        errno = ENOSPC;
        return SEM_FAILED;
    }
    long fd = nng_sys4(SYS_openat, AT_FDCWD, path,
                       O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0) { /* made by another in the meantime: without O_EXCL the caller would have got it */
        bool ours = false;
        sem_t *s =
            fd == -EEXIST && !(flags & O_EXCL) ? nng_rescue_sem_open(name, &ours) : SEM_FAILED;
        if (!ours)
            errno = (int)-fd;
        return s;
    }
    sem_t *s = create((int)fd, value);
    if (s == SEM_FAILED) {
        nng_sys3(SYS_unlinkat, AT_FDCWD, path, 0);
        errno = ENOSPC;
    }
    nng_sys1(SYS_close, fd);
    return s;
}

/* ---- closing -------------------------------------------------------------------------------------- */
HOOK(int, sem_close, (sem_t * s))
{
    /* a real one is mapped too, as a whole page whose rest reads as zeros */
    if (nng_rescue_shm && !((uintptr_t)s & (PAGE - 1)) &&
        !__builtin_memcmp((const char *)s + MARK_AT, mark, sizeof mark))
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
