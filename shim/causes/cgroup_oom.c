/* SPDX-License-Identifier: MIT
 *
 * cgroup_oom: the memory limit of a container or job was reached and the kernel killed the process.
 * Certain only where the kernel's own line fits by pid, or where the victim's own cgroup, at its limit,
 * counted just before the death exactly as many kills as processes of this run died there, and there is
 * nobody else for whom they can have been. An OOM kill of somebody else in the same cgroup at the time
 * of a kill -9 is the trap.
 */
#include "common.h"

#include <string.h>

/* The count rose just before the death and leaves nobody else. */
static bool count_fits(const struct nng_memscope *m)
{
    return m->present && m->kills_fresh >= 1 && m->foreign == 0 && m->others_gone == 0 &&
           m->kills_fresh == m->sigkills_fresh && nng_ev_at_limit(m);
}

static enum nng_confidence judge(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const struct nng_memscope *m = &ev->mem;
    const struct nng_kmsg *k = &ev->kmsg;
    bool sent = nng_ev_killer(ev, SIGKILL) != NULL;

    if (k->found && k->global)
        return NNG_NO;
    if (k->found && k->by_pid) {
        if (!sent)
            return NNG_CERTAIN;
        nng_v_doubt(v, "this run also sent it a SIGKILL at that time",
                    "当时本次训练自己也向它发送了 SIGKILL");
        return NNG_LIKELY;
    }
    if (sent)
        return NNG_NO;
    if (k->found) {
        if (count_fits(m))
            return nng_ev_cap(ev, v, NNG_CERTAIN);
        nng_v_doubt(v,
                    "the kernel's line fits by name and size; its pid cannot be compared in here",
                    "内核日志中的名称和大小相符;但在这里无法核对 pid");
        return NNG_LIKELY;
    }
    /* The kernel names every process that it kills: it named others, not this one. */
    if (k->readable && k->others)
        return NNG_NO;
    if (!m->present || m->kills < 1)
        return NNG_NO;
    if (count_fits(m))
        return nng_ev_cap(ev, v, NNG_CERTAIN);
    if (nng_ev_other_limit(m) && nng_ev_host_short(&ev->host, ev->victim_rss)) {
        nng_v_doubt(v, "the machine itself was short of memory", "整机当时也内存紧张");
        return NNG_POSSIBLE;
    }
    if (m->others_gone > 0) {
        nng_v_doubt(v, "another program that this run started ended about then, it may be its kill",
                    "本次训练启动的另一个程序也在那时结束,计数可能属于它");
        return NNG_POSSIBLE;
    }
    if (m->foreign > 0 && m->foreign_gone > 0) {
        nng_v_doubt(v,
                    "processes of others in that cgroup are gone, too (%d): it may be their count",
                    "该 cgroup 中他人的进程也消失了(%d 个),计数可能属于它们", m->foreign_gone);
        return NNG_POSSIBLE;
    }
    if (m->kills_fresh == 0 && m->kills == m->sigkills) {
        nng_v_doubt(v, "the count had risen some time before it died, it may be another one's",
                    "该计数在它死亡之前已增加,可能属于另一个进程");
        return m->foreign == 0 && nng_ev_at_limit(m) ? NNG_LIKELY : NNG_POSSIBLE;
    }
    if (m->kills < m->sigkills) {
        nng_v_doubt(v, "%d processes were killed but the kernel counted only %lld",
                    "有 %d 个进程被杀死,但内核只计了 %lld 次", m->sigkills, (long long)m->kills);
        return m->kills * 2 > m->sigkills ? NNG_LIKELY : NNG_POSSIBLE;
    }
    if (m->foreign != 0)
        nng_v_doubt(v, "others share its cgroup; the kernel's log would tell whom the kill was for",
                    "该 cgroup 中还有其他进程;内核日志可以说明被杀的是谁");
    else if (m->kills == m->sigkills)
        nng_v_doubt(v, "the limit itself was not seen to be reached; the kernel's log would tell",
                    "没有看到上限本身被达到;内核日志可以说明");
    else
        nng_v_doubt(v, "the kernel counted %lld kills for %d deaths seen; its log would name them",
                    "内核计了 %lld 次,而看到的死亡为 %d 次;内核日志会写明是哪些进程",
                    (long long)m->kills, m->sigkills);
    return NNG_LIKELY;
}

/* Numbers from outside, so that sums of a few of them cannot overflow. */
static int64_t sane(int64_t n)
{
    return n < 0 ? 0 : n > INT64_C(1) << 50 ? INT64_C(1) << 50 : n;
}

/* Room for the run as it was, and another of the victim, a quarter on top; more than the limit. */
static int64_t need(const struct nng_evidence *ev, int64_t limit)
{
    int64_t n = sane(ev->mem.peak > ev->run_rss ? ev->mem.peak : ev->run_rss);

    if (n < sane(limit))
        n = sane(limit);
    n += sane(ev->victim_rss);
    return n + n / 4;
}

/* How many workers of the victim's size fit; where the victim was no worker, half of them. */
static int fitting(const struct nng_evidence *ev, int64_t limit)
{
    int64_t each = sane(ev->victim_rss), room = sane(limit) - sane(limit) / 8;
    int workers = nng_ev_workers(ev) < 4096 ? nng_ev_workers(ev) : 4096;
    int64_t rest = sane(ev->run_rss) - each * workers;

    if (ev->who.role != NNG_ROLE_WORKER || room <= 0 || each <= 0)
        return workers / 2;
    for (int w = workers - 1; w > 0; w--)
        if ((rest > 0 ? rest : 0) + each * w <= room)
            return w;
    return 0;
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const struct nng_memscope *m = &ev->mem;
    bool other = m->present && nng_ev_other_limit(m) && !ev->kmsg.found;
    int64_t limit = m->limit_hit > 0 ? m->limit_hit : other ? -1 : m->limit;
    enum nng_confidence conf;

    if (nng_ev_signal(ev) != SIGKILL || (conf = judge(ev, v)) == NNG_NO)
        return NNG_NO;
    if (limit > 0) {
        nng_v_why(v, "out of memory, the limit of %s was reached", "内存不足,达到上限 %s",
                  nng_bytes(limit));
        nng_v_short(v, "the memory limit of %s was reached", "内存达到上限 %s", nng_bytes(limit));
    } else if (other) {
        nng_v_why(v, "out of memory, at a limit above its own cgroup's",
                  "内存不足,达到的是其 cgroup 之上的某个上限");
        nng_v_short(v, "a memory limit was reached", "内存达到某个上限");
    } else {
        nng_v_why(v, "out of memory, the limit of its cgroup was reached",
                  "内存不足,达到所在 cgroup 的上限");
        nng_v_short(v, "the memory limit was reached", "内存达到上限");
    }
    if (other)
        nng_v_proof(v,
                    "the limit of its own cgroup (%s) was not reached; those above cannot be seen",
                    "其自身 cgroup 的上限(%s)没有被达到;更上层的看不到",
                    m->limit > 0 ? nng_bytes(m->limit) : "none");
    else if (ev->victim_rss > 0 && ev->run_rss > 0)
        nng_v_proof(v, "it used %s, this run %s in all; limit %s",
                    "它占用 %s,本次训练共占用 %s;上限 %s", nng_bytes(ev->victim_rss),
                    nng_bytes(ev->run_rss), nng_bytes(limit));
    else if (m->present && m->peak > 0 && limit > 0)
        nng_v_proof(v, "peak memory was %s of %s", "内存峰值 %s,上限 %s", nng_bytes(m->peak),
                    nng_bytes(limit));
    if (ev->kmsg.found)
        nng_v_proof(v, "the kernel's log names it: %s", "内核日志记录了它:%s",
                    nng_text_short(ev->kmsg.line, 110));
    if (m->present && m->kills >= 1)
        nng_v_proof(
            v, "the kernel's out-of-memory killer counted %lld in its own cgroup, %d died there",
            "内核的内存不足杀手在其所在 cgroup 中计了 %lld 次,其中死亡 %d 个", (long long)m->kills,
            m->sigkills);
    if (m->limit_path[0] && strcmp(m->limit_path, m->path) != 0)
        nng_v_proof(v, "the limit is that of %s", "该上限属于 %s",
                    nng_path_short(m->limit_path, 60));
    nng_v_signal_facts(v, ev);
    nng_v_memory_facts(v, ev);
    nng_v_fact_int(v, "cgroup.limit_hit_bytes", m->limit_hit > 0 ? m->limit_hit : -1, "cgroup");
    nng_fix_memory(v, ev, need(ev, limit));
    if (nng_ev_workers(ev) > 1 || ev->who.role == NNG_ROLE_WORKER)
        nng_fix_fewer_workers(v, ev, fitting(ev, limit));
    return conf;
}

NNG_CAUSE(cgroup_oom, 10, match);
