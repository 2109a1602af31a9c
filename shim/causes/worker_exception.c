/* SPDX-License-Identifier: MIT
 *
 * worker_exception: it ended by a Python exception of its own, with status 1, or with status 0 as
 * batchgenerators' workers do. Says which exception, where; what the exception means is told by the
 * more specific causes, which go before this one.
 */
#include "crash.h"

#include <string.h>

static bool ended_like_it(const struct nng_evidence *ev)
{
    if (!ev->status.known)
        return ev->kind == NNG_K_FAILURE;
    return ev->status.code == 1 || (ev->status.code == 0 && ev->who.role != NNG_ROLE_TRAINER);
}

static enum nng_confidence judge(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const struct nng_traceback *tb = &ev->tb;

    if (!ended_like_it(ev)) {
        nng_v_doubt(v, "exit code %d is not that of an exception", "退出码 %d 不是异常的退出码",
                    ev->status.code);
        return NNG_POSSIBLE;
    }
    if (!tb->complete || !tb->type[0]) {
        nng_v_doubt(v, "the end of its traceback was not kept", "回溯信息的结尾没有保留下来");
        return NNG_LIKELY;
    }
    if (ev->status.known && ev->status.code == 0 && !tb->background_worker) {
        nng_v_doubt(v, "its status was 0: it may have caught this exception",
                    "其状态为 0:它可能已捕获该异常");
        return NNG_LIKELY;
    }
    /* Nobody had died that it could have lost: whoever held the other end closed it, for a reason of its own. */
    if (nng_text_lost_peer(tb)) {
        nng_v_doubt(
            v,
            "the other end of its connection was closed first, maybe since the trainer had failed",
            "对方先关闭了连接,可能是因为训练主进程已经失败");
        return NNG_LIKELY;
    }
    /* multiprocessing's _bootstrap prints "Process NAME:" and then what ended the process
     * (Lib/multiprocessing/process.py); what it had on stdout comes after that. */
    if (tb->background_worker || (tb->own && !tb->after))
        return NNG_CERTAIN;
    if (tb->own) {
        nng_v_doubt(v, "other output came after this traceback; a relayed one would look the same",
                    "该回溯之后还有别的输出;转述别人的回溯也会是这样");
        return NNG_LIKELY;
    }
    if (tb->told) {
        nng_v_doubt(v, "the trainer told this of it; the worker itself printed nothing",
                    "这是训练主进程转述的;该工作进程自己没有输出");
        return NNG_LIKELY;
    }
    if (tb->after) {
        nng_v_doubt(v, "it went on printing after this traceback", "在该回溯之后它还有输出");
        return NNG_POSSIBLE;
    }
    nng_v_doubt(v,
                "its last output looks like its own traceback; a relayed one would look the same",
                "最后的输出看起来是它自己的回溯信息;转述别人的回溯也会是这样");
    return NNG_LIKELY;
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const struct nng_traceback *tb = &ev->tb;
    const char *file = nng_ev_last_file(ev);
    enum nng_confidence conf;

    if (!nng_ev_left(ev) || tb->keyboard)
        return NNG_NO;
    if (!tb->present) {
        if (!strstr(ev->tail, "Exception in background worker"))
            return NNG_NO;
        nng_v_why(v, "a Python exception ended it", "因 Python 异常结束");
        nng_v_doubt(v, "its traceback was not kept", "没有保留下它的回溯信息");
        nng_v_signal_facts(v, ev);
        nng_v_fix(v, false, "read its last output in report.txt", "查看 report.txt 中它最后的输出");
        return NNG_LIKELY;
    }
    if (nng_ev_consequence(ev))
        return NNG_NO; /* only a witness of another one's end: unknown says so */
    conf = judge(ev, v);
    if (tb->type[0])
        nng_v_why(v, "a Python exception ended it: %s%s%s", "因 Python 异常结束:%s%s%s", tb->type,
                  tb->message[0] ? ": " : "", nng_text_short(tb->message, 70));
    else
        nng_v_why(v, "a Python exception ended it", "因 Python 异常结束");
    nng_v_short(v, "of a Python exception (%s)", "Python 异常(%s)", tb->type);
    if (tb->file[0])
        nng_v_proof(v, "raised in %s:%d %s", "出现在 %s:%d %s", nng_path_short(tb->file, 60),
                    tb->line, tb->func);
    if (tb->root_type[0])
        nng_v_proof(v, "it began with %s: %s", "起因是 %s:%s", tb->root_type,
                    nng_text_short(tb->root_message, 80));
    if (file[0])
        nng_v_proof(v, "the data file it opened last: %s", "它最后打开的数据文件:%s",
                    nng_path_short(file, 70));
    nng_v_signal_facts(v, ev);
    nng_v_exception_facts(v, ev);
    nng_v_fact_str(v, "crash.last_file", file, "open hooks");
    nng_v_fix(v, false, "the exception says what to change; its traceback is in report.txt",
              "异常信息说明了应改什么;完整回溯见 report.txt");
    return conf;
}

NNG_CAUSE(worker_exception, NNG_RANK_SHAPE + 10, match);
