/* SPDX-License-Identifier: MIT
 *
 * A growing text. Out of memory is remembered in `failed`, so that callers check once, at the end.
 */
#include "part.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void nng_out_raw(struct nng_out *o, const char *bytes, size_t n)
{
    if (o->failed)
        return;
    if (o->len + n + 1 > o->cap) {
        size_t cap = o->cap ? o->cap * 2 : 16384;
        while (cap < o->len + n + 1)
            cap *= 2;
        char *p = realloc(o->p, cap);
        if (!p) {
            o->failed = true;
            return;
        }
        o->p = p;
        o->cap = cap;
    }
    memcpy(o->p + o->len, bytes, n);
    o->len += n;
    o->p[o->len] = 0;
}

void nng_out_line(struct nng_out *o, const char *fmt, ...)
{
    char raw[2048], clean[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(raw, sizeof raw, fmt, ap);
    va_end(ap);
    nng_clean(clean, sizeof clean, raw);
    if (o->ascii)
        nng_fold_ascii(clean);
    nng_out_raw(o, clean, strlen(clean));
    nng_out_raw(o, "\n", 1);
}
