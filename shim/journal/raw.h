/* SPDX-License-Identifier: MIT
 *
 * The kernel, called directly. Everything that may run inside a hook, a signal handler or a vfork
 * child goes this way: libc's syscall() is itself a hooked name, and sets errno.
 */
#ifndef NNG_JOURNAL_RAW_H
#define NNG_JOURNAL_RAW_H

/* [as-safe] One system call; returns what the kernel returns (-errno on failure). */
static inline long nng_raw(long n, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
    long ret;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory", "cc");
    return x0;
#else
#error "nnguard knows the system calls of x86_64 and aarch64 only"
#endif
}

#endif
