/* SPDX-License-Identifier: MIT
 *
 * What a run says at its end when memory stood in for a /dev/shm that was too small: how much, and the
 * lasting fix with its number.
 */
#include "part.h"

#include <stdio.h>
#include <string.h>

/* What /dev/shm would have had to hold at once, and a quarter on top. */
static int64_t need(const struct nng_rescued *r)
{
    int64_t both = (r->shm_used > 0 ? r->shm_used : 0) + (int64_t)(r->peak & INT64_MAX);
    return both + both / 4;
}

void nng_say_rescued(char *out, size_t n, const struct nng_rescued *r, enum nng_lang lang)
{
    char total[32], bytes[32], peak[32];
    nng_text_bytes(total, sizeof total, r->shm_total);
    nng_text_bytes(bytes, sizeof bytes, (int64_t)(r->bytes & INT64_MAX));
    nng_text_bytes(peak, sizeof peak, (int64_t)(r->peak & INT64_MAX));
    unsigned long long pieces = r->segments;
    if (lang == NNG_ZH)
        snprintf(out, n, "/dev/shm 太小(%s):放不下的数据改用了普通内存(%llu 块,共 %s,同时最多 %s)",
                 total, pieces, bytes, peak);
    else
        snprintf(
            out, n,
            "/dev/shm was too small (%s): what did not fit went to ordinary memory (%llu %s, %s "
            "in all, at most %s at a time)",
            total, pieces, pieces == 1 ? "piece" : "pieces", bytes, peak);
}

size_t nng_report_rescued(char *out, const struct nng_run *r, const struct nng_style *s)
{
    static struct nng_evidence ev; /* large */
    static struct nng_verdict v;
    struct nng_lines l = {.n = 0};
    enum nng_lang lang = nng_style_lang(s);
    char line[NNG_LINE_MAX];
    memset(&ev, 0, sizeof ev);
    memset(&v, 0, sizeof v);
    v.confidence = NNG_CERTAIN;
    ev.machine = r->machine;
    ev.workers_at_once = r->rescued.workers;
    nng_say_rescued(line, sizeof line, &r->rescued, lang);
    nng_lines_add(&l, 0, NNG_PLAIN, line);
    nng_fix_shm_size(&v, &ev, need(&r->rescued));
    nng_add_advice(&l, &v, lang, 1, 2);
    return nng_lines_write(&l, s, NNG_PREFIX, out, NNG_BLOCK_MAX);
}
