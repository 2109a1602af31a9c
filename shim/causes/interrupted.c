/* SPDX-License-Identifier: MIT
 *
 * interrupted: somebody outside the run ended it: SIGTERM or SIGHUP to the trainer (a scheduler, a closed
 * terminal), or Ctrl-C. Nothing is broken.
 */
#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void advise(struct nng_verdict *v, const struct nng_evidence *ev, int signo,
                   const char *sender)
{
    const char *job = strstr(ev->machine.place_detail, "job ");
    struct nng_fix *f;

    if (signo == SIGHUP) {
        f = nng_v_fix(v, false, "keep it running when the terminal closes; tmux does so too",
                      "终端关闭后仍保持运行;也可用 tmux");
        nng_fix_command(f, "nohup %s &", nng_fix_trainer(ev));
    } else if (ev->machine.place == NNG_PL_SLURM || strstr(sender, "slurm")) {
        f = nng_v_fix(v, false, "was it the time limit or scancel", "查看是否到达时限或被 scancel");
        if (job)
            nng_fix_command(f, "sacct -j %.16s -o State,Elapsed,Timelimit", job + 4);
        else
            nng_fix_command(f, "sacct -o JobID,State,Elapsed,Timelimit");
    } else if (ev->machine.place == NNG_PL_KUBERNETES) {
        f = nng_v_fix(v, false, "was the pod evicted or deleted", "查看 pod 是否被驱逐或删除");
        nng_fix_command(f, "kubectl get events --sort-by=.lastTimestamp");
    } else if (signo == SIGTERM) {
        nng_v_fix(v, false,
                  "ask who or what ended it: a person, a scheduler, a container being stopped",
                  "查明是谁结束了它:某个人、调度器,或容器被停止");
    }
}

static void say(struct nng_verdict *v, const struct nng_fault *f, int signo, bool outside,
                const char *sender)
{
    if (!outside && sender[0])
        nng_v_why(v, "ended by %s (%s, pid %d)", "被 %s 结束(%s,pid %d)", sender,
                  nng_signal_name(signo), f->sender_pid);
    else if (!outside && signo == SIGTERM)
        nng_v_why(v, "ended by a SIGTERM", "被 SIGTERM 结束");
    else if (signo == SIGHUP)
        nng_v_why(v, "ended from outside, its terminal or ssh session was closed (SIGHUP)",
                  "从外部被结束,终端或 ssh 会话已关闭(SIGHUP)");
    else if (sender[0])
        nng_v_why(v, "ended from outside by %s (SIGTERM, pid %d)",
                  "从外部被 %s 结束(SIGTERM,pid %d)", sender, f->sender_pid);
    else if (f && f->sender_pid == 0)
        nng_v_why(v, "ended from outside this container (SIGTERM)", "从本容器之外被结束(SIGTERM)");
    else
        nng_v_why(v, "ended from outside (SIGTERM)", "从外部被结束(SIGTERM)");
    if (outside || signo == SIGHUP)
        nng_v_short(v, "it was ended from outside (%s)", "从外部被结束(%s)",
                    nng_signal_name(signo));
    else
        nng_v_short(v, "it was ended by a %s", "被 %s 结束", nng_signal_name(signo));
}

/* A write to a terminal that was closed fails with EIO (tty(4), a pseudoterminal whose master is gone). */
static enum nng_confidence terminal_gone(const struct nng_evidence *ev, struct nng_verdict *v)
{
    bool sure = false;
    const struct nng_failcall *f = nng_ev_blamed(ev, EIO, -1, &sure);

    if (!f || !nng_ev_left(ev) || !nng_ev_errno_in_words(ev, EIO, "Input/output error") ||
        (strncmp(f->path, "/dev/pts/", 9) != 0 && strncmp(f->path, "/dev/tty", 8) != 0))
        return NNG_NO;
    nng_v_why(v, "its terminal or ssh session was closed, and it still wrote to it (EIO)",
              "终端或 ssh 会话已关闭,而它仍在向其输出(EIO)");
    nng_v_short(v, "its terminal was closed", "它的终端已关闭");
    nng_v_proof(v, "%s to %s failed with EIO", "%s(%s)失败:EIO", nng_call_name(f->call),
                nng_path_short(f->path, 60));
    nng_v_signal_facts(v, ev);
    nng_v_exception_facts(v, ev);
    nng_v_fail_facts(v, f);
    advise(v, ev, SIGHUP, "");
    if (!sure)
        nng_v_doubt(v, "the failed call was seen; that it ended the process was not",
                    "看到了失败的调用,但没有看到进程正是因它而结束");
    return nng_ev_end_cap(ev, v, f, sure ? NNG_CERTAIN : NNG_LIKELY);
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    int signo = nng_ev_signal(ev);
    const struct nng_fault *f = nng_ev_fault(ev, signo);
    const char *sender = f ? NNG_FIELD(f->sender_name) : "";
    enum nng_confidence conf = NNG_LIKELY;

    if (ev->alive || nng_ev_says(ev, "blas_thread_init"))
        return NNG_NO;
    if (signo == SIGINT || (signo == 0 && ev->tb.keyboard)) {
        if (nng_ev_killer(ev, SIGINT) && nng_ev_killer(ev, SIGINT)->sender != ev->who.pid)
            return NNG_NO;
        nng_v_why(v, "interrupted (Ctrl-C)", "被中断(Ctrl-C)");
        nng_v_doubt(v, "who pressed it was not seen", "没有看到是谁按下的");
        nng_v_signal_facts(v, ev);
        return NNG_LIKELY;
    }
    if (signo == 0)
        return terminal_gone(ev, v);
    /* a SIGHUP by the kernel is that of a terminal that went */
    bool hung_up = signo == SIGHUP && nng_ev_by_kernel(f);
    bool outside = hung_up || ev->sender == NNG_SENDER_OUTSIDE || (f && f->sender_pid == 0);

    if (ev->who.role != NNG_ROLE_TRAINER || (signo != SIGTERM && signo != SIGHUP) ||
        nng_ev_killer(ev, signo) || (nng_ev_by_kernel(f) && !hung_up))
        return NNG_NO;
    if (f && f->sender_pid > 0 && (f->sender_pid == ev->who.pid || ev->sender == NNG_SENDER_INSIDE))
        return NNG_NO;
    if (outside)
        conf = nng_ev_cap(ev, v, NNG_CERTAIN);
    else if (f && f->sender_pid > 0)
        nng_v_doubt(v, "whether this run started the sender could not be seen",
                    "无法看到发送者是否由本次训练启动");
    else
        nng_v_doubt(v, "who sent it was not seen", "没有看到是谁发送的");
    say(v, f, signo, outside, sender);
    if (outside)
        nng_v_proof(v, "no process of this run sent it", "不是本次训练中的进程发送的");
    nng_v_signal_facts(v, ev);
    advise(v, ev, signo, sender);
    return conf;
}

/* Before killed_by: it says the same of the trainer in words that help more. */
NNG_CAUSE(interrupted, 8, match);
