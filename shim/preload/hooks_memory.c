/* SPDX-License-Identifier: MIT
 *
 * Mappings: those of shared files, and every one that the kernel refused for lack of something.
 * Allocators live on mmap, some call it before our constructor: private maps cost one branch, and
 * without the real function the kernel is called.
 */
#include "rescue.h"
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4 /* may come with a wish for the address */
#endif

static void *mapped(void *p, size_t len, int prot, int flags, int fd)
{
    bool shared = (flags & MAP_TYPE) != MAP_PRIVATE && !(flags & MAP_ANONYMOUS) && fd >= 0;
    if (__builtin_expect(p != MAP_FAILED && !shared, 1) || !nng_st.on)
        return p;
    int e = errno;
    if (nng_rescue_shm)
        nng_rescue_note_map(fd);
    if (p == MAP_FAILED)
        nng_fail(NNG_C_MMAP, e, flags & MAP_ANONYMOUS ? -1 : fd, NULL, (int64_t)len);
    else
        nng_put(&(struct nng_put){.type = NNG_R_MAP,
                                  .call = NNG_C_MMAP,
                                  .a = (int64_t)(uintptr_t)p,
                                  .b = (int64_t)len,
                                  .c = fd,
                                  .d = (int64_t)prot << 32 | (uint32_t)flags});
    errno = e;
    return p;
}

HOOK(void *, mmap, (void *addr, size_t len, int prot, int flags, int fd, off_t off))
{
    void *p = NEXT(mmap) ? NEXT(mmap)(addr, len, prot, flags, fd, off)
                         : (void *)nng_ret(nng_sys6(SYS_mmap, addr, len, prot, flags, fd, off));
    return mapped(p, len, prot, flags, fd);
}

HOOK(void *, mmap64, (void *addr, size_t len, int prot, int flags, int fd, off64_t off))
{
    void *p = NEXT(mmap64) ? NEXT(mmap64)(addr, len, prot, flags, fd, off)
                           : (void *)nng_ret(nng_sys6(SYS_mmap, addr, len, prot, flags, fd, off));
    return mapped(p, len, prot, flags, fd);
}

HOOK(void *, mremap, (void *old, size_t old_len, size_t len, int flags, ...))
{
    va_list ap;
    va_start(ap, flags);
    void *to = flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) ? va_arg(ap, void *) : NULL;
    va_end(ap);
    void *p = NEXT(mremap) ? NEXT(mremap)(old, old_len, len, flags, to)
                           : (void *)nng_ret(nng_sys5(SYS_mremap, old, old_len, len, flags, to));
    if (p == MAP_FAILED && nng_st.on)
        nng_fail(NNG_C_MREMAP, errno, -1, NULL, (int64_t)len);
    return p;
}
