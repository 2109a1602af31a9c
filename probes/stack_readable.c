/* SPDX-License-Identifier: MIT
 *
 * C++ names for people, without a C++ library: scopes and plain names of the Itanium mangling are
 * spelled out, template arguments are shown as <...> and end the name, parameters are left away. Whatever
 * else occurs (operators, substitutions) leaves the name as it was: half a guess would be a false one.
 */
#include "stack_raw.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct name {
    char text[512];
    size_t n;
    const char *last; /* last plain part, for constructors */
    size_t last_n;
};

static bool add(struct name *to, const char *s, size_t n)
{
    if (n >= sizeof to->text - to->n)
        return false;
    memcpy(to->text + to->n, s, n);
    to->n += n;
    to->text[to->n] = '\0';
    return true;
}

static bool scope(struct name *to)
{
    return !to->n || add(to, "::", 2);
}

/* "15serial_for_each": NULL where it is none. */
static const char *plain(const char *p, struct name *to)
{
    char *end;
    if (!isdigit((unsigned char)*p) || *p == '0')
        return NULL;
    unsigned long n = strtoul(p, &end, 10);
    if (n > 400 || strnlen(end, n) != n || !scope(to))
        return NULL;
    to->last = end;
    to->last_n = n;
    bool hidden = n >= 11 && !strncmp(end, "_GLOBAL__N_", 11);
    if (!(hidden ? add(to, "(anonymous)", 11) : add(to, end, n)))
        return NULL;
    return end + n;
}

static const char *structor(const char *p, struct name *to)
{
    bool constructor = p[0] == 'C' && p[1] >= '1' && p[1] <= '3';
    bool destructor = p[0] == 'D' && p[1] >= '0' && p[1] <= '2';

    if ((!constructor && !destructor) || !to->last || !scope(to) ||
        (destructor && !add(to, "~", 1)) || !add(to, to->last, to->last_n))
        return NULL;
    return p + 2;
}

static bool nested(const char *p, struct name *to)
{
    p += strspn(p, "rVKRO");
    if (!strncmp(p, "St", 2)) {
        if (!add(to, "std", 3))
            return false;
        p += 2;
    }
    while (*p != 'E') {
        if (*p == 'I')
            return to->n && add(to, "<...>", 5);
        const char *next = plain(p, to);
        if (!next)
            next = structor(p, to);
        if (!next)
            return false;
        p = next;
    }
    return to->n != 0;
}

void nng_stack_readable(const char *symbol, char *out, size_t n)
{
    struct name to = {.n = 0};
    bool ok = false;

    if (!strncmp(symbol, "_ZN", 3)) {
        ok = nested(symbol + 3, &to);
    } else if (!strncmp(symbol, "_Z", 2)) {
        const char *p = plain(symbol + (symbol[2] == 'L' ? 3 : 2), &to);
        ok = p && (*p != 'I' || add(&to, "<...>", 5));
    }
    snprintf(out, n, "%s", ok ? to.text : symbol);
}
