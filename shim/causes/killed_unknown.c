/* SPDX-License-Identifier: MIT
 *
 * killed_unknown: ended by a signal that somebody or something outside sent, and neither an OOM kill nor
 * a sender can be shown. The honest answer: what was excluded, what is left, where to look next.
 */
#include "common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool sendable(int s)
{
    return s == SIGKILL || s == SIGTERM || s == SIGHUP || s == SIGINT || s == SIGQUIT ||
           s == SIGUSR1 || s == SIGUSR2 || s == SIGALRM || s == SIGVTALRM || s == SIGPROF ||
           s == SIGIO || s == SIGPWR || s >= 32;
}

static void exclude(struct nng_verdict *v, const struct nng_evidence *ev)
{
    const struct nng_memscope *m = &ev->mem;

    if (m->present && m->kills == 0 && m->kills_total > 0)
        nng_v_proof(v, "the out-of-memory kills in its cgroup (%lld) were of other processes",
                    "所在 cgroup 的内存不足杀死(%lld 次)针对的是其他进程",
                    (long long)m->kills_total);
    else if (m->present && m->kills == 0 && m->limit > 0 && m->peak > 0)
        nng_v_proof(
            v,
            "not the out-of-memory killer of this container: its count stayed the same, peak "
            "memory was %s of %s",
            "不是本容器的内存不足杀手:其计数没有变化,内存峰值 %s(上限 %s)", nng_bytes(m->peak),
            nng_bytes(m->limit));
    else if (m->present && m->kills == 0)
        nng_v_proof(v, "not the out-of-memory killer of its cgroup: its count stayed the same",
                    "不是所在 cgroup 的内存不足杀手:其计数没有变化");
    else if (m->present && m->kills > 0)
        nng_v_proof(
            v, "out-of-memory kills in its cgroup meanwhile: %lld, but not shown to be this one",
            "其间所在 cgroup 有 %lld 次内存不足杀死,但不能证明是它", (long long)m->kills);
    if (ev->kmsg.readable && !ev->kmsg.found)
        nng_v_proof(v, "the kernel's log has no out-of-memory kill of it",
                    "内核日志中没有它因内存不足被杀的记录");
    else if (ev->host.vmstat_kills == 0)
        nng_v_proof(v, "not the out-of-memory killer of this machine: its count stayed the same",
                    "不是本机的内存不足杀手:其计数没有变化");
}

static void say_left_over(struct nng_verdict *v, const struct nng_evidence *ev, int signo)
{
    bool host = (ev->kmsg.readable && !ev->kmsg.found) || ev->host.vmstat_kills == 0;
    bool own = ev->mem.present && ev->mem.kills >= 0;

    if (signo != SIGKILL)
        nng_v_doubt(v, "it can be: a person, the scheduler, or the program itself",
                    "可能是:某个人、调度器,或程序自身");
    else if (host)
        nng_v_doubt(
            v,
            "it can be: a person, the scheduler, a program that this run started, or a watchdog "
            "such as earlyoom",
            "可能是:某个人、调度器、本次训练启动的程序,或 earlyoom 之类的看守程序");
    else if (own)
        nng_v_doubt(v,
                    "it can be: a person, the scheduler, or an out-of-memory kill by the host that "
                    "cannot be seen from inside",
                    "可能是:某个人、调度器,或宿主机因内存不足将其杀死(在容器内看不到)");
    else
        nng_v_doubt(
            v,
            "it can be: a person, the scheduler, or an out-of-memory kill: no counter of those "
            "can be read here",
            "可能是:某个人、调度器,或因内存不足被杀:这里读不到相应的计数");
}

static void advise(struct nng_verdict *v, const struct nng_evidence *ev, int signo)
{
    const char *job = strstr(ev->machine.place_detail, "job ");
    struct nng_fix *f;

    if (ev->machine.place == NNG_PL_SLURM) {
        f = nng_v_fix(v, false, "what the scheduler knows", "查看调度器的记录");
        if (job)
            nng_fix_command(f, "sacct -j %d -o State,ExitCode,MaxRSS,Elapsed,Timelimit",
                            atoi(job + 4));
        else
            nng_fix_command(f, "sacct -o JobID,State,ExitCode,MaxRSS,Elapsed,Timelimit");
    } else if (ev->machine.place == NNG_PL_KUBERNETES) {
        f = nng_v_fix(v, false, "what the cluster knows", "查看集群的记录");
        nng_fix_command(f, "kubectl describe pod %s",
                        nng_ev_env(ev, "HOSTNAME") ? nng_ev_env(ev, "HOSTNAME") : "…");
    }
    if (signo != SIGKILL) { /* no out-of-memory killer sends that */
        if (v->n_fix == 0)
            nng_v_fix(v, false, "look for what sends %s to it: a script, a scheduler, a service",
                      "查找是什么向它发送 %s:脚本、调度器或某个服务", nng_signal_name(signo));
        return;
    }
    f = ev->machine.place == NNG_PL_HOST ? nng_v_fix(v, false, "the kernel's log", "查看内核日志")
                                         : nng_v_fix(v, false, "on the host", "在宿主机上执行");
    nng_fix_command(f, "sudo dmesg -T | grep -i 'killed process'");
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    int signo = nng_ev_signal(ev);

    if (!sendable(signo))
        return NNG_NO;
    if (signo == SIGKILL)
        nng_v_why(v, "killed (%s), not by a Python process of this run",
                  "被杀死(%s),不是本次训练的 Python 进程所为", nng_signal_name(signo));
    else if (signo == SIGALRM || signo == SIGVTALRM || signo == SIGPROF)
        nng_v_why(v, "ended by %s, the signal of a timer; whose is not known",
                  "被定时器信号 %s 结束;是谁的定时器尚不清楚", nng_signal_name(signo));
    else
        nng_v_why(v, "ended by %s; who sent it is not known", "被信号 %s 结束;发送者不明",
                  nng_signal_name(signo));
    if (signo == SIGKILL)
        nng_v_short(v, "a process was killed (%s), by whom or what is not known",
                    "有进程被杀死(%s),不知道是谁所为", nng_signal_name(signo));
    exclude(v, ev);
    say_left_over(v, ev, signo);
    nng_v_signal_facts(v, ev);
    nng_v_memory_facts(v, ev);
    advise(v, ev, signo);
    return NNG_UNKNOWN;
}

NNG_CAUSE(killed_unknown, NNG_RANK_LAST, match);
