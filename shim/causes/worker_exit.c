/* SPDX-License-Identifier: MIT
 *
 * worker_exit: it left by exit or _exit, with a code and without a traceback, while it was needed.
 */
#include "crash.h"

#include <string.h>

/* The last line that it printed. */
static const char *last_line(const struct nng_evidence *ev)
{
    const char *end = ev->tail + strlen(ev->tail), *from;

    while (end > ev->tail && (end[-1] == '\n' || end[-1] == ' '))
        end--;
    for (from = end; from > ev->tail && from[-1] != '\n' && end - from < 200; from--)
        ;
    return nng_text_field(from, (size_t)(end - from));
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    int code = ev->status.code;
    const char *said;

    /* A traceback that was followed by other output was survived; sys.exit("words") came later. */
    bool survived = ev->tb.present && ev->tb.after && !ev->tb.own && !ev->tb.background_worker;
    bool cut = strlen(ev->tail) + 256 > NNG_TAIL_SIZE;

    if (ev->alive || !ev->status.known || nng_ev_signal(ev) != 0 || (ev->tb.present && !survived))
        return NNG_NO;
    if (strstr(ev->tail, "Exception in background worker"))
        return NNG_NO;
    said = last_line(ev);
    if (code == 0)
        nng_v_why(v, "it left with exit code 0, as if its work were done",
                  "以退出码 0 退出,好像工作已完成");
    else if (code == 1 && cut)
        nng_v_why(v, "it left with exit code 1; the end of its output shows no traceback",
                  "以退出码 1 退出;其输出的结尾没有回溯信息");
    else if (survived)
        nng_v_why(v, "it left by itself with exit code %d", "自行以退出码 %d 退出", code);
    else if (code == 1)
        nng_v_why(v, "it left with exit code 1, and printed no traceback to its stdout or stderr",
                  "以退出码 1 退出,其 stdout 和 stderr 上没有回溯信息");
    else
        nng_v_why(v, "it left by itself with exit code %d, without an error message of Python",
                  "自行以退出码 %d 退出,没有 Python 错误信息", code);
    nng_v_short(v, "a process left with exit code %d", "有进程以退出码 %d 退出", code);
    if (said[0])
        nng_v_proof(v, "its last line: %s", "它最后的一行输出:%s", said);
    if (code > 128 && code <= 192)
        nng_v_proof(v, "%d is how a shell tells that something below it ended by %s",
                    "%d 表示 shell 之下的某个进程因 %s 结束", code, nng_signal_name(code - 128));
    nng_v_proof(v, "nobody killed it: no signal ended it", "没有人杀死它:不是被信号结束的");
    nng_v_signal_facts(v, ev);
    nng_v_fact_str(v, "crash.last_file", nng_ev_last_file(ev), "open hooks");
    nng_v_fix(v, false, "look for sys.exit, os._exit or exit() in the code that it ran",
              "在它运行的代码中查找 sys.exit、os._exit 或 exit()");
    if (code == 0 && ev->one_of_several) {
        nng_v_doubt(v, "others left in the same way about then; which one was missed is not known",
                    "那时还有别的进程以同样方式退出;缺的是哪一个无法确定");
        return NNG_LIKELY;
    }
    /* A status of 0 read there may only mean that reading it is not allowed. */
    if (code == 0 && strncmp(ev->status.source, "/proc/", 6) == 0) {
        nng_v_doubt(v, "its status was read from /proc, where 0 may also mean that it is hidden",
                    "其状态读自 /proc,那里的 0 也可能表示不允许读取");
        return NNG_LIKELY;
    }
    /* Every uncaught exception ends with 1, too; its traceback goes where sys.stderr points. */
    if (code == 1 && cut) {
        nng_v_doubt(v, "what it printed before its last %s was not kept",
                    "它最后 %s 之前的输出没有保留", nng_bytes((int64_t)NNG_TAIL_SIZE));
        return NNG_POSSIBLE;
    }
    if (code == 1) {
        nng_v_doubt(v, "an exception whose traceback went elsewhere (a log file) ends the same way",
                    "若异常的回溯信息写到了别处(如日志文件),结束方式相同");
        return NNG_LIKELY;
    }
    return NNG_CERTAIN;
}

NNG_CAUSE(worker_exit, NNG_RANK_SHAPE + 20, match);
