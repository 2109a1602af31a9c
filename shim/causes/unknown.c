/* SPDX-License-Identifier: MIT
 *
 * unknown: always matches, last. What was seen, what is missing, how to get it.
 */
#include "common.h"

#include <stdio.h>

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    int signo = nng_ev_signal(ev);
    struct nng_fix *f;

    if (nng_ev_left(ev) && nng_ev_consequence(ev)) {
        nng_v_why(v, "it lost another process of this run; how that one ended was not seen",
                  "它失去了本次训练的另一个进程;没有看到那个进程是如何结束的");
        nng_v_proof(v, "it says: %s: %s", "它自己的输出:%s:%s", ev->tb.type,
                    nng_text_short(ev->tb.message, 80));
        nng_v_doubt(v,
                    "killed for memory, a bus error or a crash: this message is the same for all",
                    "内存不足被杀、总线错误或崩溃:这条信息都一样");
    } else if (signo) {
        nng_v_why(v, "ended by %s, the reason is not known", "因 %s 结束,原因不明",
                  nng_signal_name(signo));
        if (signo == SIGSYS)
            nng_v_proof(v, "SIGSYS: a system call that this container or sandbox forbids",
                        "SIGSYS:使用了本容器或沙箱禁止的系统调用");
        if (signo == SIGPIPE)
            nng_v_proof(v,
                        "SIGPIPE: it wrote to a pipe whose reader was gone, so look at the reader",
                        "SIGPIPE:它向已无读取者的管道写入,应查看读取的一方");
        nng_v_doubt(v, "no record of how the signal came", "没有该信号如何产生的记录");
    } else if (ev->alive) {
        nng_v_why(v, "it stands still, the reason is not known", "停止不前,原因不明");
        nng_v_doubt(v, "no failed call that explains it", "没有能解释它的失败调用");
    } else if (ev->status.known) {
        nng_v_why(v, "ended with exit code %d, the reason is not known",
                  "以退出码 %d 结束,原因不明", ev->status.code);
        nng_v_doubt(v, "nothing in its output or its calls explains it",
                    "它的输出和调用中都没有能解释的内容");
    } else {
        nng_v_why(v, "it is gone; how it ended could not be seen",
                  "它已消失,没有看到它是如何结束的");
        nng_v_doubt(v, "its exit status was not collected where it could be read",
                    "没有读取到它的退出状态");
    }
    nng_v_signal_facts(v, ev);
    nng_v_memory_facts(v, ev);
    nng_v_exception_facts(v, ev);
    f = nng_v_fix(v, false, "read the last output and the timeline in report.txt",
                  "查看 report.txt 中最后的输出和时间线");
    if (!ev->who.python)
        nng_fix_cost(f, "programs other than Python are only watched from outside",
                     "非 Python 程序只能从外部观察");
    return NNG_UNKNOWN;
}

NNG_CAUSE(unknown, NNG_RANK_LAST + 1, match);
