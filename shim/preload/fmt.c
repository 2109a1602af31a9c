/* SPDX-License-Identifier: MIT
 *
 * Formatting and parsing without memory, locale or libc. Any context. `end` is one past the buffer;
 * one byte is always kept for the terminator.
 */
#include "internal.h"

char *nng_fmt_str(char *p, char *end, const char *s)
{
    if (p >= end)
        return p;
    while (*s && p < end - 1)
        *p++ = *s++;
    *p = 0;
    return p;
}

static char *digits(char *p, char *end, uint64_t v, unsigned base)
{
    char tmp[24];
    unsigned i = sizeof tmp;
    tmp[--i] = 0;
    do {
        tmp[--i] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    return nng_fmt_str(p, end, tmp + i);
}

char *nng_fmt_u64(char *p, char *end, uint64_t v)
{
    return digits(p, end, v, 10);
}

char *nng_fmt_hex(char *p, char *end, uint64_t v)
{
    return digits(p, end, v, 16);
}

const char *nng_parse_u64(const char *p, const char *end, uint64_t *v)
{
    uint64_t n = 0;
    while (p < end && *p >= '0' && *p <= '9')
        n = n * 10 + (uint64_t)(*p++ - '0');
    *v = n;
    return p;
}

const char *nng_parse_hex(const char *p, const char *end, uint64_t *v)
{
    uint64_t n = 0;
    for (; p < end; p++) {
        char c = *p;
        if (c >= '0' && c <= '9')
            n = n << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            n = n << 4 | (uint64_t)(c - 'a' + 10);
        else
            break;
    }
    *v = n;
    return p;
}
