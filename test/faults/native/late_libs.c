/* SPDX-License-Identifier: MIT
 *
 * librt.so.1 and libpthread.so.0 of the libc that old_libc.c makes: what a dlopen brings along.
 */
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <sys/mman.h>

extern void *old_libc_real(const char *name);

int shm_open(const char *name, int flags, mode_t mode)
{
    return ((int (*)(const char *, int, mode_t))old_libc_real("shm_open"))(name, flags, mode);
}

int shm_unlink(const char *name)
{
    return ((int (*)(const char *))old_libc_real("shm_unlink"))(name);
}

sem_t *sem_open(const char *name, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = va_arg(ap, mode_t);
    unsigned value = va_arg(ap, unsigned);
    va_end(ap);
    return ((sem_t * (*)(const char *, int, ...)) old_libc_real("sem_open"))(name, flags, mode,
                                                                             value);
}

int sem_close(sem_t *s)
{
    return ((int (*)(sem_t *))old_libc_real("sem_close"))(s);
}

int sem_unlink(const char *name)
{
    return ((int (*)(const char *))old_libc_real("sem_unlink"))(name);
}

int pthread_create(pthread_t *t, const pthread_attr_t *at, void *(*run)(void *), void *arg)
{
    return ((int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))old_libc_real(
        "pthread_create"))(t, at, run, arg);
}
