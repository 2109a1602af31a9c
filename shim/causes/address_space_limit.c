/* SPDX-License-Identifier: MIT
 *
 * address_space_limit: RLIMIT_AS or RLIMIT_DATA. malloc's own mmap is seen by no hook, so the proof is
 * the limit, the use and the request: MemoryError or bad_alloc with use + request above the limit.
 */
#include "common.h"

#include <errno.h>
#include <sys/resource.h>

struct numbers {
    int64_t as, data; /* the limits; -1 none */
    int64_t asked, used, peak;
    int64_t limit; /* the one that was reached */
    bool by_as;
};

static bool read_numbers(const struct nng_evidence *ev, struct numbers *n)
{
    if (!ev->has_usage)
        return false;
    n->as = nng_ev_rlim(ev, RLIMIT_AS, false);
    n->data = nng_ev_rlim(ev, RLIMIT_DATA, false);
    n->asked = nng_ev_alloc_asked(ev);
    n->by_as = n->as >= 0 && !(n->data >= 0 && n->asked > n->data && n->data < n->as);
    n->limit = n->by_as ? n->as : n->data;
    /* DATA counts private writable memory, which nobody recorded; resident memory is a rough stand-in. */
    n->used = (int64_t)((n->by_as ? ev->usage.vm_size : ev->usage.vm_rss) & INT64_MAX);
    n->peak = (int64_t)((n->by_as ? ev->usage.vm_peak : ev->usage.vm_hwm) & INT64_MAX);
    return n->limit >= 0;
}

static enum nng_confidence judge(const struct nng_evidence *ev, const struct numbers *n,
                                 struct nng_verdict *v)
{
    bool over =
        n->asked > 0 && (n->asked > n->limit || (n->by_as && n->used > n->limit - n->asked));

    if (over && nng_ev_signal(ev) != SIGABRT && nng_ev_alloc_stated(ev))
        return NNG_CERTAIN;
    if (over && nng_ev_signal(ev) != SIGABRT) {
        nng_v_doubt(v, "its message does not say how much it asked for; a call shortly before does",
                    "它的信息没有说申请了多少;数字来自稍早失败的调用");
        return NNG_LIKELY;
    }
    if (over) {
        nng_v_doubt(v, "the failed allocation itself was not recorded", "没有记录到失败的分配本身");
        return NNG_LIKELY;
    }
    if (n->asked > 0 && n->by_as) {
        /* It would have fitted, as far as its use tells. */
        if (n->peak < n->limit - n->asked)
            return NNG_NO;
        nng_v_doubt(v, "its use was read at the end, when memory was already free again",
                    "其用量是在结束时读取的,当时内存已有释放");
        return NNG_LIKELY;
    }
    nng_v_doubt(v, "how much it asked for is not known", "不知道它申请了多少");
    /* What the machine would have refused, this limit refuses before. */
    if (n->peak > n->limit - n->limit / 5 ||
        (ev->host.total > 0 && n->limit < ev->host.total && ev->host.overcommit != 2))
        return NNG_LIKELY;
    return NNG_POSSIBLE;
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    struct numbers n;
    enum nng_confidence conf;
    struct nng_fix *f;

    if (!nng_ev_alloc_failed(ev) || (!nng_ev_left(ev) && nng_ev_signal(ev) != SIGABRT) ||
        !read_numbers(ev, &n) || (conf = judge(ev, &n, v)) == NNG_NO)
        return NNG_NO;
    nng_v_why(v, "it may not use more than %s of memory (ulimit -%s)",
              "它最多只能使用 %s 内存(ulimit -%s)", nng_bytes(n.limit), n.by_as ? "v" : "d");
    nng_v_short(v, "the limit of memory per process was reached (%s, ulimit -%s)",
                "达到每个进程的内存上限(%s,ulimit -%s)", nng_bytes(n.limit), n.by_as ? "v" : "d");
    if (n.asked > 0)
        nng_v_proof(v, "it used %s and asked for %s; the limit is %s",
                    "它已用 %s,又申请 %s;上限为 %s", nng_bytes(n.used), nng_bytes(n.asked),
                    nng_bytes(n.limit));
    else
        nng_v_proof(v, "it used %s, at most %s; the limit is %s", "它已用 %s,最高 %s;上限为 %s",
                    nng_bytes(n.used), nng_bytes(n.peak), nng_bytes(n.limit));
    if (ev->host.total > 0)
        nng_v_proof(v, "the machine itself has %s available", "本机还有 %s 可用",
                    nng_bytes(ev->host.available));
    nng_v_signal_facts(v, ev);
    nng_v_exception_facts(v, ev);
    nng_v_fact_int(v, "rlimit.as_bytes", n.as, "getrlimit");
    nng_v_fact_int(v, "rlimit.data_bytes", n.data, "getrlimit");
    nng_v_fact_int(v, "victim.vm_bytes", (int64_t)(ev->usage.vm_size & INT64_MAX),
                   "/proc/self/status");
    nng_v_fact_int(v, "victim.vm_peak_bytes", (int64_t)(ev->usage.vm_peak & INT64_MAX),
                   "/proc/self/status");
    nng_v_fact_int(v, "alloc.asked_bytes", n.asked, "its words or the failed call");
    f = nng_v_fix(v, false, "lift the limit", "解除上限");
    nng_fix_command(f, "ulimit -%s unlimited; %s", n.by_as ? "v" : "d", nng_fix_trainer(ev));
    if (nng_ev_workers(ev) > 1 && ev->who.role == NNG_ROLE_TRAINER)
        nng_fix_fewer_workers(v, ev, nng_ev_workers(ev) / 2);
    return nng_ev_end_cap(ev, v, nng_ev_fail(ev, ENOMEM, NNG_C_OTHER, true), conf);
}

NNG_CAUSE(address_space_limit, 14, match);
