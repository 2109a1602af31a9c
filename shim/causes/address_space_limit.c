/* SPDX-License-Identifier: MIT
 *
 * address_space_limit: RLIMIT_AS or RLIMIT_DATA. malloc's own mmap is seen by no hook, so the proof is
 * the limit, the use and the request: MemoryError or bad_alloc with use + request above the limit.
 */
#include "common.h"

#include <sys/resource.h>

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    int64_t as = nng_ev_rlim(ev, RLIMIT_AS, false), data = nng_ev_rlim(ev, RLIMIT_DATA, false);
    int64_t asked = nng_ev_alloc_asked(ev), limit, used;
    bool by_as = as >= 0, over;
    enum nng_confidence conf;
    struct nng_fix *f;

    if (!nng_ev_alloc_failed(ev) || (!nng_ev_left(ev) && nng_ev_signal(ev) != SIGABRT) ||
        (as < 0 && data < 0))
        return NNG_NO;
    used =
        by_as ? (int64_t)(ev->usage.vm_size & INT64_MAX) : (int64_t)(ev->usage.vm_rss & INT64_MAX);
    /* DATA counts writable private memory, which is not recorded: RSS is a lower bound of no use if
     * shared pages are many, so only a request above the limit itself proves it. */
    limit = by_as ? as : data;
    if (data >= 0 && asked > data)
        by_as = false, limit = data;
    over = by_as ? asked > 0 && used > 0 && used > limit - asked : asked > limit;
    if (over) {
        conf = nng_ev_signal(ev) == SIGABRT ? NNG_LIKELY : NNG_CERTAIN;
        if (conf == NNG_LIKELY)
            nng_v_doubt(v, "the failed allocation itself was not recorded",
                        "没有记录到失败的分配本身");
    } else if (asked > 0 && by_as) {
        /* It would have fitted, as far as the use at the end tells. */
        if ((int64_t)(ev->usage.vm_peak & INT64_MAX) < limit - asked)
            return NNG_NO;
        conf = NNG_LIKELY;
        nng_v_doubt(v, "its use was read at the end, when memory was already free again",
                    "其用量是在结束时读取的,当时内存已有释放");
    } else if (by_as && (int64_t)(ev->usage.vm_peak & INT64_MAX) > limit - limit / 5) {
        conf = NNG_LIKELY;
        nng_v_doubt(v, "how much it asked for is not known", "不知道它申请了多少");
    } else {
        conf = NNG_POSSIBLE;
        nng_v_doubt(v, "how much it asked for is not known", "不知道它申请了多少");
    }
    nng_v_why(v, "it may not use more than %s of memory (ulimit -%s)",
              "它最多只能使用 %s 内存(ulimit -%s)", nng_bytes(limit), by_as ? "v" : "d");
    nng_v_short(v, "the limit of memory per process was reached (%s, ulimit -%s)",
                "达到每个进程的内存上限(%s,ulimit -%s)", nng_bytes(limit), by_as ? "v" : "d");
    if (asked > 0)
        nng_v_proof(v, "it used %s and asked for %s; the limit is %s",
                    "它已用 %s,又申请 %s;上限为 %s", nng_bytes(used), nng_bytes(asked),
                    nng_bytes(limit));
    else
        nng_v_proof(v, "it used %s, at most %s; the limit is %s", "它已用 %s,最高 %s;上限为 %s",
                    nng_bytes(used), nng_bytes((int64_t)(ev->usage.vm_peak & INT64_MAX)),
                    nng_bytes(limit));
    if (ev->host.total > 0)
        nng_v_proof(v, "the machine itself has %s available", "本机还有 %s 可用",
                    nng_bytes(ev->host.available));
    nng_v_signal_facts(v, ev);
    nng_v_exception_facts(v, ev);
    nng_v_fact_int(v, "rlimit.as_bytes", as, "getrlimit");
    nng_v_fact_int(v, "rlimit.data_bytes", data, "getrlimit");
    nng_v_fact_int(v, "victim.vm_bytes", (int64_t)(ev->usage.vm_size & INT64_MAX),
                   "/proc/self/status");
    nng_v_fact_int(v, "victim.vm_peak_bytes", (int64_t)(ev->usage.vm_peak & INT64_MAX),
                   "/proc/self/status");
    nng_v_fact_int(v, "alloc.asked_bytes", asked, "its words or the failed call");
    f = nng_v_fix(v, false, "lift the limit", "解除上限");
    nng_fix_command(f, "ulimit -%s unlimited; %s", by_as ? "v" : "d", nng_fix_trainer(ev));
    if (nng_ev_workers(ev) > 1 && ev->who.role == NNG_ROLE_TRAINER)
        nng_fix_fewer_workers(v, ev, nng_ev_workers(ev) / 2);
    return conf;
}

NNG_CAUSE(address_space_limit, 14, match);
