/* SPDX-License-Identifier: MIT
 *
 * Raw system calls for the whole folder, and the check for vfork children. Any context.
 */
#include "../journal/raw.h"
#include "internal.h"
#include <sys/syscall.h>

long nng_sys(long n, long a, long b, long c, long d, long e, long f)
{
    return nng_raw(n, a, b, c, d, e, f);
}

bool nng_is_self(void)
{
    return (int)nng_raw(SYS_getpid, 0, 0, 0, 0, 0, 0) == nng_st.pid;
}
