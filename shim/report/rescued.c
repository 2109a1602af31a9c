/* SPDX-License-Identifier: MIT
 *
 * What a run says at its end when memory stood in for a /dev/shm that was too small: how much, and the
 * lasting fix with its number.
 */
#include "part.h"

#include <stdio.h>
#include <string.h>

/* Numbers from the journal, so that sums of a few of them cannot overflow. */
static int64_t sane(uint64_t n)
{
    return n > UINT64_C(1) << 45 ? INT64_C(1) << 45 : (int64_t)n;
}

/* What /dev/shm must hold: all that ever was in it (its size, since it was full when rescue began) and
 * all that lived outside, each piece in whole pages. A quarter on top. */
static int64_t need(const struct nng_rescued *r)
{
    int64_t peak = sane(r->peak), total = r->shm_total > 0 ? sane((uint64_t)r->shm_total) : 0;
    double bytes = (double)sane(r->bytes), pieces = (double)sane(r->segments);
    double pages = 4096 * (bytes > 0 ? pieces * ((double)peak / bytes) : pieces);
    int64_t n = total + peak + sane(pages < 0x1p45 ? (uint64_t)pages : UINT64_MAX);
    return n + n / 4;
}

void nng_say_rescued(char *out, size_t n, const struct nng_rescued *r, enum nng_lang lang)
{
    char total[32], bytes[32], peak[32];
    nng_text_bytes(total, sizeof total, r->shm_total);
    nng_text_bytes(bytes, sizeof bytes, sane(r->bytes));
    nng_text_bytes(peak, sizeof peak, sane(r->peak));
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

/* An incident of this run that says how large /dev/shm should be: one number is enough. */
static bool told_with_number(const struct nng_run *r)
{
    for (int i = 0; i < r->n_incidents; i++)
        if (r->incident[i].verdict.cause && !strcmp(r->incident[i].verdict.cause, "shm_exhausted"))
            return true;
    return false;
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
    ev.machine.n_proc_da = 0; /* the number comes from what was made, not from how many made it */
    nng_say_rescued(line, sizeof line, &r->rescued, lang);
    nng_lines_wrap(&l, 0, line, 2);
    if (!told_with_number(r)) {
        nng_fix_shm_size(&v, &ev, need(&r->rescued));
        nng_add_advice(&l, &v, lang, 1, 2);
    }
    return nng_lines_write(&l, s, NNG_PREFIX, out, NNG_BLOCK_MAX);
}
