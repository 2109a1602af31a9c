/* SPDX-License-Identifier: MIT
 *
 * Python frames from the text that CPython's faulthandler prints on a fatal signal. Only the thread
 * that crashed is taken: the others are listed in the same form. The text comes out of a ring, so its
 * start may be missing; then there is no telling whose frames they are, and none are given.
 */
#include "probes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *last_of(const char *text, const char *what)
{
    const char *last = NULL;
    for (const char *p = text; (p = strstr(p, what)); p++)
        last = p;
    return last;
}

static const char *next_line(const char *p)
{
    p = strchr(p, '\n');
    return p ? p + 1 : NULL;
}

/* `  File "x.py", line 3 in f` -> "x.py:3 f". A file's name may hold quotes itself. */
static bool frame(const char *line, size_t n, char out[200])
{
    static const char head[] = "  File \"", mid[] = "\", line ";
    const char *end = line + n, *at = NULL, *in;
    char *rest;

    if (n < sizeof head - 1 || strncmp(line, head, sizeof head - 1))
        return false;
    line += sizeof head - 1;
    for (const char *p = line; p < end && (p = memmem(p, (size_t)(end - p), mid, sizeof mid - 1));
         p++)
        at = p;
    if (!at)
        return false;
    unsigned long number = strtoul(at + sizeof mid - 1, &rest, 10);
    if (rest >= end || strncmp(rest, " in ", 4))
        return false;
    in = rest + 4;
    int func = (int)(end - in), file = (int)(at - line), room;
    if (func <= 0)
        return false;
    if (func > 60)
        func = 60;
    room = 199 - func - 24;
    if (file > room) /* the end of a path tells more than its start */
        snprintf(out, 200, "...%.*s:%lu %.*s", room - 3, line + file - (room - 3), number, func,
                 in);
    else
        snprintf(out, 200, "%.*s:%lu %.*s", file, line, number, func, in);
    return true;
}

void nng_stack_python(const char *tail, struct nng_stack *out)
{
    const char *p = last_of(tail, "Fatal Python error: ");

    out->n_python = 0;
    if (!p || !(p = strstr(p, "\nCurrent thread 0x")) || !(p = next_line(p + 1)))
        return;
    while (p && out->n_python < (int)(sizeof out->python / sizeof out->python[0])) {
        size_t n = strcspn(p, "\n");
        if (!frame(p, n, out->python[out->n_python]))
            break;
        out->n_python++;
        p = next_line(p);
    }
}
