/* SPDX-License-Identifier: MIT
 *
 * Times. The journal counts CLOCK_BOOTTIME; a run's start is known by both clocks, and everything
 * else follows from the distance to it, so that a clock set anew in the middle does not reorder a
 * story.
 */
#include "part.h"

#include <stdio.h>
#include <time.h>

uint64_t nng_boot_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t nng_real_ns(const struct nng_run *r, uint64_t boot_ns)
{
    return r->start_real_ns + (boot_ns - r->start_boot_ns); /* modulo: earlier times work as well */
}

/* Local time of a hostile or unset clock is shown as it comes, but never fails. */
static void split(uint64_t real_ns, bool local, struct tm *tm)
{
    time_t t = (time_t)(real_ns / 1000000000u);
    struct tm zero = {.tm_year = 70, .tm_mday = 1};
    if (!(local ? localtime_r(&t, tm) : gmtime_r(&t, tm)))
        *tm = zero;
}

char *nng_say_time(char *out, size_t n, const struct nng_run *r, uint64_t boot_ns,
                   enum nng_clock how)
{
    struct tm tm;
    uint64_t real = nng_real_ns(r, boot_ns);
    split(real, true, &tm);
    if (how == NNG_CLOCK_DATE) {
        if (!strftime(out, n, "%Y-%m-%d %H:%M:%S %z", &tm))
            out[0] = 0;
    } else if (how == NNG_CLOCK_MS) {
        snprintf(out, n, "%02d:%02d:%02d.%03u", tm.tm_hour, tm.tm_min, tm.tm_sec,
                 (unsigned)(real / 1000000u % 1000u));
    } else {
        snprintf(out, n, "%02d:%02d:%02d", tm.tm_hour, tm.tm_min, tm.tm_sec);
    }
    return out;
}

char *nng_say_rfc3339(char *out, size_t n, uint64_t real_ns)
{
    struct tm tm;
    char date[40];
    split(real_ns, false, &tm);
    if (!strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &tm))
        date[0] = 0;
    snprintf(out, n, "%s.%09uZ", date, (unsigned)(real_ns % 1000000000u));
    return out;
}

int nng_moment_order(const struct nng_run *r, int *order)
{
    int n = r->n_moments < 0 ? 0 : r->n_moments < NNG_TIMELINE ? r->n_moments : NNG_TIMELINE;
    for (int i = 0; i < n; i++) { /* nearly sorted: insertion, which also keeps equals in order */
        int k = i;
        for (; k > 0 && r->moment[order[k - 1]].time_ns > r->moment[i].time_ns; k--)
            order[k] = order[k - 1];
        order[k] = i;
    }
    return n;
}
