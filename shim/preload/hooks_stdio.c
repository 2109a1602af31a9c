/* SPDX-License-Identifier: MIT
 *
 * What goes to the `stderr` stream, for the tail: libc's own write from there is not seen by our
 * write hook. std::cerr comes by fwrite and putc. printf to stdout is left alone on purpose (its hook
 * would cost more than it proves). The text of a printf is formatted a second time, into a stack
 * buffer, and only for stderr. Plus getenv, for one name.
 */
#ifndef __NO_INLINE__
#define __NO_INLINE__ 1 /* stdio.h would define some of our names as inlines */
#endif
#include "internal.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline bool is_stderr(FILE *f)
{
    return __builtin_expect(f == stderr, 0) && nng_st.on;
}

/* A short write on any stream with an errno that can be a cause: the full disk behind numpy's save.
 * errno was 0 before the call; still 0, it is nobody's (fwrite need not set it), and `before` returns. */
static void short_write(FILE *f, size_t asked)
{
    int e = errno;
    if (nng_st.on && nng_err_matters(e))
        nng_fail(NNG_C_WRITE, e, fileno_unlocked(f), NULL, (int64_t)asked);
    errno = e;
}

HOOK(size_t, fwrite, (const void *__restrict buf, size_t size, size_t n, FILE *__restrict f))
{
    int before = errno;
    errno = 0;
    size_t r = REAL(fwrite)(buf, size, n, f);
    if (is_stderr(f))
        nng_tail_put(buf, size * r);
    if (__builtin_expect(r < n && size, 0))
        short_write(f, size * n);
    if (!errno)
        errno = before;
    return r;
}

#undef fwrite_unlocked
HOOK(size_t, fwrite_unlocked,
     (const void *__restrict buf, size_t size, size_t n, FILE *__restrict f))
{
    int before = errno;
    errno = 0;
    size_t r = REAL(fwrite_unlocked)(buf, size, n, f);
    if (is_stderr(f))
        nng_tail_put(buf, size * r);
    if (__builtin_expect(r < n && size, 0))
        short_write(f, size * n);
    if (!errno)
        errno = before;
    return r;
}

HOOK(int, fputs, (const char *__restrict s, FILE *__restrict f))
{
    int r = REAL(fputs)(s, f);
    if (is_stderr(f) && r >= 0)
        nng_tail_put(s, strlen(s));
    return r;
}

HOOK(int, fputs_unlocked, (const char *__restrict s, FILE *__restrict f))
{
    int r = REAL(fputs_unlocked)(s, f);
    if (is_stderr(f) && r >= 0)
        nng_tail_put(s, strlen(s));
    return r;
}

static int put_char(int c, FILE *f, int r)
{
    char byte = (char)c;
    if (is_stderr(f))
        nng_tail_put(&byte, 1);
    return r;
}

HOOK(int, fputc, (int c, FILE *f))
{
    return put_char(c, f, REAL(fputc)(c, f));
}

HOOK(int, fputc_unlocked, (int c, FILE *f))
{
    return put_char(c, f, REAL(fputc_unlocked)(c, f));
}

#undef putc
HOOK(int, putc, (int c, FILE *f))
{
    return put_char(c, f, REAL(putc)(c, f));
}

#undef putc_unlocked
HOOK(int, putc_unlocked, (int c, FILE *f))
{
    return put_char(c, f, REAL(putc_unlocked)(c, f));
}

#undef _IO_putc
HOOK(int, _IO_putc, (int c, FILE *f))
{
    return put_char(c, f, REAL(_IO_putc)(c, f));
}

/* ---- printf ------------------------------------------------------------------------------------- */
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* the formats are our callers' */

/* Before the real call, which uses up `ap`; errno is kept for %m. */
static void tail_format(const char *fmt, va_list ap)
{
    char text[512];
    int e = errno;
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(text, sizeof text, fmt, again);
    va_end(again);
    if (n > 0)
        nng_tail_put(text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
    errno = e;
}

HOOK(int, vfprintf, (FILE *__restrict f, const char *__restrict fmt, va_list ap))
{
    if (is_stderr(f))
        tail_format(fmt, ap);
    return REAL(vfprintf)(f, fmt, ap);
}

HOOK(int, __vfprintf_chk, (FILE * f, int flag, const char *fmt, va_list ap))
{
    if (is_stderr(f))
        tail_format(fmt, ap);
    return REAL(__vfprintf_chk)(f, flag, fmt, ap);
}

HOOK(int, fprintf, (FILE *__restrict f, const char *__restrict fmt, ...))
{
    va_list ap;
    va_start(ap, fmt);
    if (is_stderr(f))
        tail_format(fmt, ap);
    int r = REAL(vfprintf)(f, fmt, ap);
    va_end(ap);
    return r;
}

HOOK(int, __fprintf_chk, (FILE * f, int flag, const char *fmt, ...))
{
    va_list ap;
    va_start(ap, fmt);
    if (is_stderr(f))
        tail_format(fmt, ap);
    int r = REAL(__vfprintf_chk)(f, flag, fmt, ap);
    va_end(ap);
    return r;
}

HOOK(void, perror, (const char *s))
{
    int e = errno;
    if (nng_st.on) {
        if (s && *s) {
            nng_tail_put(s, strlen(s));
            nng_tail_put(": ", 2);
        }
        const char *text = strerror(e);
        nng_tail_put(text, strlen(text));
        nng_tail_put("\n", 1);
    }
    errno = e;
    REAL(perror)(s);
}

/* ---- getenv ------------------------------------------------------------------------------------- */
/* Allocators ask it before any constructor ran. */
HOOK(char *, getenv, (const char *name))
{
    char *v = NEXT(getenv) ? NEXT(getenv)(name) : (char *)(uintptr_t)nng_env(name);
    if (__builtin_expect(!v && name[0] == 'P' && !strcmp(name, "PYTHONFAULTHANDLER"), 0) &&
        nng_st.on && nng_signals_offer_faulthandler())
        return (char *)(uintptr_t) "1";
    return v;
}
