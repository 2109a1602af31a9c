/* SPDX-License-Identifier: MIT
 *
 * oomd_kill: systemd-oomd killed the whole cgroup for memory pressure. It leaves its own count as an
 * extended attribute on the cgroup; the kernel's OOM counters do not move.
 */
#include "common.h"

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const struct nng_memscope *m = &ev->mem;
    enum nng_confidence conf = NNG_CERTAIN;
    struct nng_fix *f;

    if (nng_ev_signal(ev) != SIGKILL || !m->present || !m->oomd || nng_ev_killer(ev, SIGKILL) ||
        ev->kmsg.found)
        return NNG_NO;
    if (m->kills > 0) {
        conf = NNG_LIKELY;
        nng_v_doubt(v, "the kernel's own killer was at work there too",
                    "内核自身的杀手当时也在此动作");
    }
    nng_v_why(v, "systemd-oomd killed it, memory was short on this machine",
              "被 systemd-oomd 杀死,本机内存紧张");
    nng_v_short(v, "systemd-oomd killed it for lack of memory", "因内存紧张被 systemd-oomd 杀死");
    nng_v_proof(v, "its mark (user.oomd_kill) on the cgroup rose; the kernel's own count did not",
                "cgroup 上它的标记(user.oomd_kill)增加了;内核自身的计数没有变化");
    if (ev->run_rss > 0)
        nng_v_proof(v, "this run used %s, the machine has %s", "本次训练占用 %s,本机共有 %s",
                    nng_bytes(ev->run_rss), nng_bytes(ev->host.total > 0 ? ev->host.total : -1));
    nng_v_signal_facts(v, ev);
    nng_v_memory_facts(v, ev);
    nng_v_fact_str(v, "cgroup.oomd_kill", "rose", "user.oomd_kill xattr");
    f = nng_v_fix(v, false, "run it where systemd-oomd does not act, with a limit of its own",
                  "放到 systemd-oomd 不干预的单元中运行,并设自己的上限");
    nng_fix_command(f, "systemd-run --user --scope -p ManagedOOMMemoryPressure=auto %s",
                    nng_fix_trainer(ev));
    if (nng_ev_workers(ev) > 1)
        nng_fix_fewer_workers(v, ev, nng_ev_workers(ev) / 2);
    return nng_ev_cap(ev, v, conf);
}

NNG_CAUSE(oomd_kill, 16, match);
