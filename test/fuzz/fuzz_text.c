/* SPDX-License-Identifier: MIT
 *
 * The text cleaner, the masking of secrets, the ASCII folding and the traceback reader on arbitrary
 * bytes.
 */
#include "shim/report/part.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "broken promise: %s\n", #condition);                                   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Length of the valid UTF-8 character at p, 0 where there is none. */
static size_t valid(const unsigned char *p)
{
    if (p[0] < 0x80)
        return 1;
    size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

static void must_be_safe(const char *text, int lines)
{
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        size_t n = valid(p);
        MUST(n);
        if (n == 1)
            MUST(lines && (*p == '\n' || *p == '\t') ? 1 : *p >= 32 && *p != 127);
        MUST(!(n == 2 && p[0] == 0xc2 && p[1] < 0xa0));                                  /* C1 */
        MUST(!(n == 3 && p[0] == 0xe2 && p[1] == 0x80 && p[2] >= 0xaa && p[2] <= 0xae)); /* bidi */
        MUST(!(n == 3 && p[0] == 0xe2 && p[1] == 0x81 && p[2] >= 0xa6 && p[2] <= 0xa9));
        p += n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char out[8192], again[8192];
    struct nng_traceback tb;
    if (!size)
        return 0;
    size_t room = 1 + (data[0] * 17u) % sizeof out; /* mostly too small for the rest */
    const char *src = (const char *)data + 1;
    size_t n = nng_text_clean(out, room, src, size - 1);
    MUST(n < room && strlen(out) == n);
    must_be_safe(out, 1);
    MUST(nng_text_clean(again, sizeof again, out, n) == n && !memcmp(again, out, n));
    memset(&tb, 0, sizeof tb);
    nng_text_traceback(out, &tb);
    MUST(strlen(tb.type) < sizeof tb.type && strlen(tb.message) < sizeof tb.message);
    MUST(strlen(tb.file) < sizeof tb.file && strlen(tb.func) < sizeof tb.func);
    n = nng_text_clean_line(out, room, src, size - 1);
    MUST(n < room && strlen(out) == n);
    must_be_safe(out, 0);
    nng_redact(out);
    must_be_safe(out, 0);
    MUST(strlen(out) <= n && nng_columns(out) >= 0);
    nng_fold_ascii(out);
    for (const char *p = out; *p; p++)
        MUST(!(*p & 0x80));
    return 0;
}
