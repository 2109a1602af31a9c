/* SPDX-License-Identifier: MIT
 *
 * killed_by: a signal that somebody sent, and the sender is known: by a kill record of this run, or by
 * si_pid in the victim's own handler (SIGKILL has none). Covers SIGBUS, SIGSEGV, SIGABRT that were sent:
 * they must never be taken for faults.
 */
#include "common.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static enum nng_confidence by_record(const struct nng_evidence *ev, const struct nng_killrec *k,
                                     int signo, struct nng_verdict *v)
{
    const char *name = k->sender_name[0] ? NNG_FIELD(k->sender_name) : "?";

    if (k->sender == ev->who.pid) {
        nng_v_why(v, "it sent itself %s", "它向自己发送了 %s", nng_signal_name(signo));
        nng_v_proof(v, "its own call was recorded, nobody else was involved",
                    "记录到了它自己的调用,与其他进程无关");
    } else {
        const char *zh = nng_role_name(k->sender_role, true);
        const char *en = nng_role_name(k->sender_role, false);
        nng_v_why(v, "killed by pid %d (%s), %s%.0s of this run",
                  "被 pid %d(%s,本次训练的%.0s%s)杀死", k->sender, name, en, zh);
        nng_v_proof(v, "the call that sent %s was recorded in the sender",
                    "在发送者一方记录到了发送 %s 的调用", nng_signal_name(signo));
    }
    nng_v_fact_int(v, "kill.sender_pid", k->sender, "kill record of this run");
    nng_v_fact_str(v, "kill.sender_name", k->sender_name, "kill record of this run");
    nng_v_fact_str(v, "kill.signal", nng_signal_name(signo), "kill record of this run");
    if (ev->kmsg.found && ev->kmsg.by_pid) {
        nng_v_doubt(v, "the kernel's log names an out-of-memory kill of it too",
                    "内核日志中也有它因内存不足被杀的记录");
        return NNG_LIKELY;
    }
    if (signo == SIGKILL && nng_ev_oom_open(ev)) {
        nng_v_doubt(v,
                    "its cgroup counted an out-of-memory kill about then, perhaps of another one",
                    "其所在 cgroup 当时也计了一次内存不足杀死,可能是另一个进程");
        return NNG_LIKELY;
    }
    return nng_ev_cap(ev, v, NNG_CERTAIN);
}

static enum nng_confidence by_siginfo(const struct nng_evidence *ev, const struct nng_fault *f,
                                      struct nng_verdict *v)
{
    const char *name = f->sender_name[0] ? NNG_FIELD(f->sender_name) : "";
    const char *sig = nng_signal_name(f->signo);

    if (f->sender_pid == ev->who.pid && f->sender_pid > 0)
        nng_v_why(v, "it sent itself %s", "它向自己发送了 %s", sig);
    else if (f->sender_pid > 0)
        nng_v_why(v, "%s was sent to it by pid %d%s%s%s", "%s 由 pid %d%s%s%s 发送给它", sig,
                  f->sender_pid, name[0] ? " (" : "", name, name[0] ? ")" : "");
    else if (f->sender_pid == 0)
        nng_v_why(v, "%s was sent to it from outside this container", "%s 是从本容器之外发送给它的",
                  sig);
    else
        nng_v_why(v, "%s was sent to it", "%s 是被发送给它的", sig);
    nng_v_proof(v, "sent, not a fault of its own: si_code %d, sender's user id %u",
                "是发送的信号,不是它自身出错:si_code %d,发送者的用户 id %u", f->code,
                f->sender_uid);
    if (f->sender_pid > 0 && f->sender_pid != ev->who.pid && ev->sender == NNG_SENDER_INSIDE)
        nng_v_proof(v, "the sender was started by this run", "发送者由本次训练启动");
    nng_v_signal_facts(v, ev);
    if (f->sender_pid < 0) {
        nng_v_doubt(v, "the sender's pid was not seen", "没有看到发送者的 pid");
        return NNG_LIKELY;
    }
    return nng_ev_cap(ev, v, NNG_CERTAIN);
}

/* earlyoom and systemd-oomd kill before the kernel has to. */
static bool for_memory(const char *sender)
{
    return strstr(sender, "earlyoom") || strstr(sender, "oomd") || strstr(sender, "nohang");
}

static void advise(struct nng_verdict *v, const struct nng_evidence *ev, const char *sender,
                   int signo)
{
    struct nng_fix *f;

    if (for_memory(sender)) {
        nng_v_fix(v, false, "memory ran short on this machine: %s ends the largest process then",
                  "本机内存紧张:此时 %s 会结束占用最大的进程", sender);
        if (nng_ev_workers(ev) > 1)
            nng_fix_fewer_workers(v, ev, nng_ev_workers(ev) / 2);
    } else if (strstr(sender, "slurm")) {
        f = nng_v_fix(v, false, "was it the time limit or scancel", "查看是否到达时限或被 scancel");
        nng_fix_command(f, "sacct -o JobID,State,Elapsed,Timelimit");
    } else {
        nng_v_fix(v, false, "look at why it sends %s; the data are not to blame",
                  "查看它为何发送 %s;与数据无关", nng_signal_name(signo));
    }
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    int signo = nng_ev_signal(ev);
    const struct nng_fault *f = nng_ev_fault(ev, signo);
    const struct nng_killrec *k = nng_ev_killer(ev, signo);
    enum nng_confidence conf;

    if (!signo || nng_ev_by_kernel(f))
        return NNG_NO;
    if (signo == SIGABRT && (!f || f->sender_pid == ev->who.pid || f->sender_pid < 0) &&
        (!k || k->sender == ev->who.pid))
        return NNG_NO; /* abort() */
    if (signo == SIGXFSZ && !k && f && f->sender_pid == ev->who.pid &&
        nng_ev_rlim(ev, RLIMIT_FSIZE, false) >= 0)
        return NNG_NO; /* by the kernel, in its own name: file_size_limit */
    if (ev->who.role == NNG_ROLE_TRAINER && (signo == SIGTERM || signo == SIGHUP) && !k && f &&
        f->sender_pid > 0 && f->sender_pid != ev->who.pid && ev->sender != NNG_SENDER_INSIDE)
        return NNG_NO; /* interrupted says the same of it, with better advice */
    if (f && f->sender_pid >= 0 && (!k || k->sender != f->sender_pid))
        conf = by_siginfo(ev, f, v);
    else if (k)
        conf = by_record(ev, k, signo, v);
    else if (f)
        conf = by_siginfo(ev, f, v);
    else if (ev->parent_gone && (signo == SIGKILL || signo == SIGTERM)) {
        nng_v_why(v, "its parent had ended before, it was ended with it",
                  "其父进程已先结束,它随之被结束");
        nng_v_doubt(v, "who sent %s was not seen", "没有看到是谁发送了 %s", nng_signal_name(signo));
        conf = ev->mem.kills > 0 || ev->kmsg.found ? NNG_POSSIBLE : NNG_LIKELY;
    } else
        return NNG_NO;
    nng_v_signal_facts(v, ev);
    advise(v, ev,
           f && f->sender_pid > 0 ? NNG_FIELD(f->sender_name)
           : k                    ? NNG_FIELD(k->sender_name)
                                  : "",
           signo);
    return conf;
}

NNG_CAUSE(killed_by, 20, match);
