/* SPDX-License-Identifier: MIT
 *
 * syscall(): CPython sends its pidfd signals this way. A file of its own, without <unistd.h>: the
 * hook is declared with seven plain longs, which the calling conventions of x86_64 and aarch64 place
 * as a variadic call does, so that it can end in a jump to libc's and leaves no frame behind (a raw
 * clone may return twice).
 */
#include "internal.h"
#include <sys/syscall.h>

void nng_signal_syscall(long n, long a, long b, long c);

HOOK(long, syscall, (long n, long a, long b, long c, long d, long e, long f))
{
    if (__builtin_expect(n == SYS_kill || n == SYS_tgkill || n == SYS_tkill || n == 424, 0))
        nng_signal_syscall(n, a, b, c);
    if (!NEXT(syscall))
        return nng_ret(nng_sys(n, a, b, c, d, e, f));
    return NEXT(syscall)(n, a, b, c, d, e, f);
}
