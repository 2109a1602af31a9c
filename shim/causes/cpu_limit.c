/* SPDX-License-Identifier: MIT
 *
 * cpu_limit: RLIMIT_CPU. At the soft limit the kernel sends SIGXCPU, at the hard one SIGKILL.
 */
#include "common.h"

#include <sys/resource.h>

/* The later of the monitor's last look and what the process itself recorded. */
static uint64_t cpu_ns(const struct nng_evidence *ev)
{
    uint64_t own = ev->has_usage ? ev->usage.utime_ns + ev->usage.stime_ns : 0;

    return own > ev->cpu_time_ns ? own : ev->cpu_time_ns;
}

static enum nng_confidence judge(const struct nng_evidence *ev, int signo, int64_t hard,
                                 struct nng_verdict *v)
{
    const struct nng_fault *f = nng_ev_fault(ev, signo);
    double used = (double)cpu_ns(ev) / NNG_SEC;

    if (signo == SIGXCPU) {
        if ((f && f->code <= 0) || nng_ev_killer(ev, SIGXCPU))
            return NNG_NO;
        if (f)
            return nng_ev_cap(ev, v, NNG_CERTAIN);
        nng_v_doubt(v, "the signal was not recorded where it came", "没有记录到信号到达时的情况");
        return NNG_LIKELY;
    }
    if (signo != SIGKILL || hard <= 0 || cpu_ns(ev) == 0 || nng_ev_killer(ev, SIGKILL) ||
        ev->kmsg.found || ev->mem.kills > 0 || ev->mem.oomd)
        return NNG_NO;
    if (used >= (double)hard)
        return NNG_CERTAIN;
    /* The last sample may be a second old, on every core. */
    if (used >= (double)hard - 1 - (ev->machine.cpus > 0 ? ev->machine.cpus : 1) &&
        used >= 0.75 * (double)hard) {
        nng_v_doubt(v, "its processor time was last read shortly before",
                    "其处理器时间是在稍早时读取的");
        return NNG_LIKELY;
    }
    return NNG_NO;
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    int signo = nng_ev_signal(ev);
    int64_t soft = nng_ev_rlim(ev, RLIMIT_CPU, false), hard = nng_ev_rlim(ev, RLIMIT_CPU, true);

    if (hard < 0 && ev->cpu_limit_s > 0)
        hard = ev->cpu_limit_s;
    /* As it sends SIGXCPU the kernel raises the soft limit by a second, for the next one. */
    if (signo == SIGXCPU && soft > 1)
        soft--;
    enum nng_confidence conf = judge(ev, signo, hard, v);
    long long limit = signo == SIGXCPU ? soft : hard;
    struct nng_fix *f;

    if (conf == NNG_NO)
        return NNG_NO;
    if (limit > 0)
        nng_v_why(v, "its limit of processor time was reached (%lld s, ulimit -t)",
                  "达到处理器时间上限(%lld 秒,ulimit -t)", limit);
    else
        nng_v_why(v, "its limit of processor time was reached (ulimit -t)",
                  "达到处理器时间上限(ulimit -t)");
    nng_v_short(v, "the limit of processor time was reached", "达到处理器时间上限");
    if (cpu_ns(ev) >= NNG_SEC)
        nng_v_proof(v, "it had used %lld s of processor time; no out-of-memory kill was counted",
                    "它已用 %lld 秒处理器时间;没有内存不足杀死的计数",
                    (long long)(cpu_ns(ev) / NNG_SEC));
    nng_v_signal_facts(v, ev);
    nng_v_fact_int(v, "rlimit.cpu_soft_s", soft, "getrlimit");
    nng_v_fact_int(v, "rlimit.cpu_hard_s", hard, "getrlimit");
    nng_v_fact_int(v, "victim.cpu_s", (int64_t)(cpu_ns(ev) / NNG_SEC), "/proc/PID/stat");
    f = nng_v_fix(v, false, "lift the limit; the hard one needs root or the admin",
                  "解除上限;硬上限需要 root 或管理员");
    nng_fix_command(f, "ulimit -t unlimited; %s", nng_fix_trainer(ev));
    return conf;
}

NNG_CAUSE(cpu_limit, 9, match);
