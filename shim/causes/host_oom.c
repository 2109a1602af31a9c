/* SPDX-License-Identifier: MIT
 *
 * host_oom: the whole machine ran out of memory. Certain only by the kernel's own line: /proc/vmstat
 * counts cgroup kills, and those of other containers, too. Also allocations that the machine refused
 * (commit limit, fork).
 */
#include "common.h"

#include <errno.h>

static int64_t need(const struct nng_evidence *ev)
{
    const int64_t most = INT64_C(1) << 50; /* so that sums cannot overflow */
    int64_t n = ev->run_rss < 0 ? 0 : ev->run_rss > most ? most : ev->run_rss;

    n += ev->victim_rss < 0 ? 0 : ev->victim_rss > most ? most : ev->victim_rss;
    return n + n / 4;
}

static void say_memory(struct nng_verdict *v, const struct nng_evidence *ev)
{
    const struct nng_hostmem *h = &ev->host;

    if (ev->victim_rss > 0 && ev->run_rss > 0)
        nng_v_proof(v, "it used %s, this run %s in all; the machine has %s",
                    "它占用 %s,本次训练共占用 %s;本机共有 %s", nng_bytes(ev->victim_rss),
                    nng_bytes(ev->run_rss), nng_bytes(h->total > 0 ? h->total : -1));
    else if (h->total > 0)
        nng_v_proof(v, "the machine has %s, %s are available now", "本机共有 %s,现可用 %s",
                    nng_bytes(h->total), nng_bytes(h->available));
    if (h->total > 0 && h->swap_total == 0)
        nng_v_proof(v, "there is no swap", "没有交换空间");
}

static void advise(struct nng_verdict *v, const struct nng_evidence *ev)
{
    const int64_t n = need(ev);

    if (ev->machine.place == NNG_PL_SLURM || ev->machine.place == NNG_PL_KUBERNETES)
        nng_fix_memory(v, ev, n);
    else if (n > 0)
        nng_v_fix(v, false, "a machine with more memory, or other programs off it (this run: %s)",
                  "换内存更大的机器,或停掉其他程序(本次训练约需 %s)", nng_bytes(n));
    if (nng_ev_workers(ev) > 1)
        nng_fix_fewer_workers(v, ev, nng_ev_workers(ev) / 2);
    else
        nng_fix_no_workers(v, ev);
}

static enum nng_confidence killed(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const struct nng_kmsg *k = &ev->kmsg;
    const struct nng_hostmem *h = &ev->host;
    /* What its death gave back. */
    int64_t freed = ev->victim_rss > 0 ? ev->victim_rss : 0;
    bool sent = nng_ev_killer(ev, SIGKILL) != NULL;
    int64_t left = h->total > 0 && h->available >= 0 ? h->available - freed : -1;
    bool short_of = nng_ev_host_short(h, ev->victim_rss);
    bool ours = ev->mem.present && ev->mem.kills > 0;
    bool plenty = h->total > 0 && left > h->total / 2;
    enum nng_confidence conf;

    if (k->found && !k->global)
        return NNG_NO;
    if (k->found && k->by_pid && !sent) {
        conf = NNG_CERTAIN;
    } else if (sent && !(k->found && k->by_pid)) {
        return NNG_NO;
    } else if (k->found) {
        conf = NNG_LIKELY;
        if (sent)
            nng_v_doubt(v, "this run also sent it a SIGKILL at that time",
                        "当时本次训练自己也向它发送了 SIGKILL");
        else
            nng_v_doubt(
                v, "the kernel's line fits by name and size; its pid cannot be compared in here",
                "内核日志中的名称和大小相符;但在这里无法核对 pid");
    } else if (k->readable || h->vmstat_kills < 1 ||
               (ours && !(short_of && nng_ev_other_limit(&ev->mem))) ||
               plenty) { /* somebody else's cgroup was full, then */
        return NNG_NO;
    } else {
        conf = short_of && ev->mem.present && ev->mem.kills >= 0 ? NNG_LIKELY : NNG_POSSIBLE;
        nng_v_doubt(v,
                    "the count is that of the whole machine; its kernel log would name the victim",
                    "该计数属于整台机器;其内核日志会写明被杀的进程");
    }
    nng_v_why(v, "the machine ran out of memory and the kernel killed it",
              "整机内存耗尽,被内核杀死");
    nng_v_short(v, "the machine ran out of memory", "整机内存耗尽");
    if (k->found)
        nng_v_proof(v, "the kernel's log names it: %s", "内核日志记录了它:%s",
                    nng_text_short(k->line, 110));
    else if (ours)
        nng_v_proof(v,
                    "an out-of-memory kill was counted for it, but no limit of its own was reached",
                    "为它计了一次内存不足杀死,但它自身的上限没有被达到");
    else
        nng_v_proof(
            v,
            "the machine's count of out-of-memory kills rose by %lld, that of our cgroup did not",
            "整机的内存不足杀死计数增加了 %lld,而本 cgroup 的计数没有变化",
            (long long)h->vmstat_kills);
    say_memory(v, ev);
    nng_v_signal_facts(v, ev);
    nng_v_memory_facts(v, ev);
    advise(v, ev);
    return conf;
}

/* The machine refused memory: no kill, an exception. */
static enum nng_confidence refused(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const struct nng_hostmem *h = &ev->host;
    const struct nng_failcall *fork = nng_ev_fail(ev, ENOMEM, NNG_C_FORK, true);
    int64_t asked = nng_ev_alloc_asked(ev);
    bool commit = h->overcommit == 2 && h->commit_limit > 0 && h->committed >= 0 &&
                  (asked > 0 ? asked : 0) > h->commit_limit - h->commit_limit / 20 - h->committed;
    bool beyond = asked > 0 && h->total > 0 && h->overcommit != 2 &&
                  asked - h->total > (h->swap_total > 0 ? h->swap_total : 0);
    struct nng_fix *f;

    if (!nng_ev_alloc_failed(ev) || (!nng_ev_left(ev) && nng_ev_signal(ev) != SIGABRT))
        return NNG_NO;
    nng_v_why(v, "the machine refused it memory", "本机拒绝为它分配内存");
    nng_v_short(v, "the machine refused memory", "本机拒绝分配内存");
    if (asked > 0)
        nng_v_proof(v, "it asked for %s; the machine has %s, %s are available",
                    "它申请 %s;本机共有 %s,可用 %s", nng_bytes(asked),
                    nng_bytes(h->total > 0 ? h->total : -1),
                    nng_bytes(h->total > 0 ? h->available : -1));
    else
        say_memory(v, ev);
    if (commit)
        nng_v_proof(v, "overcommit is off here (vm.overcommit_memory=2): %s of %s are promised",
                    "此处禁止超额分配(vm.overcommit_memory=2):已承诺 %s,上限 %s",
                    nng_bytes(h->committed), nng_bytes(h->commit_limit));
    nng_v_signal_facts(v, ev);
    nng_v_exception_facts(v, ev);
    nng_v_memory_facts(v, ev);
    nng_v_fact_int(v, "alloc.asked_bytes", asked, "its words or the failed call");
    if (commit) {
        nng_v_fact_int(v, "host.commit_limit_bytes", h->commit_limit, "/proc/meminfo");
        nng_v_fact_int(v, "host.committed_bytes", h->committed, "/proc/meminfo");
        f = nng_v_fix(v, false, "as root, let the machine promise more, or add swap",
                      "以 root 允许系统承诺更多内存,或增加交换空间");
        nng_fix_command(f, "sudo sysctl vm.overcommit_memory=0");
    }
    if (beyond)
        nng_v_fix(v, false, "a smaller array: this one does not fit into this machine at all",
                  "减小数组:它根本放不进这台机器");
    advise(v, ev);
    if (commit || beyond) {
        nng_v_doubt(v, "the refused call itself was not seen", "没有看到被拒绝的调用本身");
        return NNG_LIKELY;
    }
    nng_v_doubt(v, "no limit that explains it was seen", "没有看到能解释它的上限");
    return fork || (h->total > 0 && h->available >= 0 && h->available < h->total / 20)
               ? NNG_LIKELY
               : NNG_POSSIBLE;
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    return nng_ev_signal(ev) == SIGKILL ? killed(ev, v) : refused(ev, v);
}

NNG_CAUSE(host_oom, 15, match);
