/* SPDX-License-Identifier: MIT
 *
 * Every phrase of a report that does not come from a cause, English and Chinese side by side.
 * Adding a language: one more column here, and one in struct nng_words.
 */
#include "part.h"

#include <string.h>

static const struct {
    const char *en, *zh;
} words[W_COUNT] = {
    [W_THE_TRAINER] = {"the trainer", "训练主进程"},
    [W_WORKER_OF] = {"worker {1} of {2}", "{2} 个工作进程中的第 {1} 个"},
    [W_WORKER_N] = {"worker {1}", "第 {1} 个工作进程"},
    [W_A_WORKER] = {"a worker", "一个工作进程"},
    [W_HELPER] = {"helper process {1}", "辅助进程 {1}"},
    [W_DIED] = {"{1} died ({2}): {3}", "{1}已死亡({2}):{3}"},
    [W_KILLED] = {"{1} was killed ({2}): {3}", "{1}被强制终止({2}):{3}"},
    [W_FAILED] = {"{1} failed ({2}): {3}", "{1}出错({2}):{3}"},
    /* said at the first failure, when what it leads to is not known yet */
    [W_STANDS_STILL] = {"training may stand still from here on: {1}", "训练可能就此停滞:{1}"},
    [W_PID] = {"pid {1}", "pid {1}"},
    [W_RANK] = {"rank {1}", "rank {1}"},
    [W_EXIT_STATUS] = {"exit status {1}", "退出码 {1}"},
    [W_COMMA] = {", ", ","},
    [W_COLON] = {": ", ":"},
    [W_SEMICOLON] = {"; ", ";"},
    [W_OPEN] = {"(", "("},
    [W_CLOSE] = {")", ")"},
    [W_IN] = {"in     ", "位置   "},
    /* Labels are padded to seven columns in block.c. */
    [W_FIX] = {"Fix", "解决"},
    [W_ELSE] = {"Else", "变通"},
    [W_NEXT] = {"Next", "下一步"},
    [W_CERTAIN] = {"certain", "确定"},
    [W_LIKELY] = {"likely", "很可能"},
    [W_POSSIBLE] = {"possible", "可能"},
    [W_UNKNOWN] = {"unknown", "未知"},
    [W_DETAILS] = {"details: {1}", "详情:{1}"},
    [W_NO_DETAILS] = {"no folder could be written, so there is no report file",
                      "没有可写的目录,因此没有报告文件"},
    [W_TIMES] = {"seen {1} times", "已发生 {1} 次"},
    [W_TIMES_LAST] = {"seen {1} times, last at {2}", "已发生 {1} 次,最近一次在 {2}"},
    [W_WHEN] = {"{1}, {2}", "{1},{2}"},
    [W_BECAUSE_DIED] = {"{1} died: {2}", "{1}已死亡:{2}"},
    [W_BECAUSE_FAILED] = {"{1} failed: {2}", "{1}出错:{2}"},
    [W_CL_FAILED] = {"this run failed because {1} ({2}).", "本次训练失败,原因:{1}({2})。"},
    [W_CL_LIKELY] = {"this run most likely failed because {1} ({2}).",
                     "本次训练失败,很可能的原因:{1}({2})。"},
    [W_CL_POSSIBLE] = {"this run failed, possibly because {1} ({2}).",
                       "本次训练失败,可能的原因:{1}({2})。"},
    [W_CL_UNKNOWN] = {"this run failed, and the cause could not be seen from here: {1} ({2}).",
                      "本次训练失败,从这里看不到原因:{1}({2})。"},
    [W_CL_STALL] = {"this run stood still because {1} ({2}).", "本次训练停滞,原因:{1}({2})。"},
    [W_CL_STALL_UNSURE] = {"this run stood still, probably because {1} ({2}).",
                           "本次训练停滞,很可能的原因:{1}({2})。"},
    [W_CL_CONSEQUENCE] = {" Everything after that line is a consequence.",
                          "此后的输出都是其后果。"},
    [W_CL_WELL] = {"this run ended without an error, although {1} died at {2}: {3}",
                   "本次训练正常结束,但{1}曾在 {2} 死亡:{3}"},
    [W_CL_WELL_STALL] = {"this run ended without an error, although it had trouble at {2}: {3}",
                         "本次训练正常结束,但在 {2} 出过问题:{3}"},
    [W_CL_APART] =
        {"this run ended with {4}; whether that comes from the death of {1} at {2} is not "
         "known: {3}",
         "本次训练以{4}结束;是否由{1}在 {2} 的死亡引起尚不清楚:{3}"},
    [W_CL_APART_STALL] =
        {"this run ended with {4}; whether that comes from the trouble at {2} is not "
         "known: {3}",
         "本次训练以{4}结束;是否由 {2} 的问题引起尚不清楚:{3}"},
    [W_CL_INTERRUPTED] = {"this run was interrupted; before that, at {2} ({1}): {3}",
                          "本次训练被中断;此前在 {2}({1}):{3}"},
    [W_CL_MORE_1] = {"one more incident is in the details", "详情中还有另外 1 个事件"},
    [W_CL_MORE] = {"{1} more incidents are in the details", "详情中还有另外 {1} 个事件"},
    [W_CL_SILENT] =
        {"this run ended without a word: the trainer, its workers and nnguard went at once, "
         "last sign of life {1}",
         "本次训练无声地结束:主进程,工作进程和 nnguard 同时消失,最后的活动在 {1}"},
    [W_CL_NOTHING] = {"nothing went wrong in this run that nnguard knows of",
                      "nnguard 未发现本次训练有任何问题"},
    [W_END_STATUS] = {"exit status {1}", "退出码 {1}"},
    [W_END_SIGNAL] = {"{1}", "{1}"},
    [W_END_UNKNOWN] = {"a status that could not be read", "无法读取的状态"},
    [W_INFERRED] = {" (inferred from its own record)", "(由其自身记录推断)"},
    [W_REMINDER] = {"training still stands still ({2}, since {1}): {3}",
                    "训练仍然停滞({2},自 {1} 起):{3}"},
    [W_MINUTES] = {"{1} min", "{1} 分钟"},
    [W_T_TITLE] = {"nnguard {1}, report of run {2}", "nnguard {1},运行 {2} 的报告"},
    [W_T_STARTED] = {"started   {1} on {2}, pid {3}", "开始   {1},主机 {2},pid {3}"},
    [W_T_ENDED] = {"ended     {1}, {2}", "结束   {1},{2}"},
    [W_T_COMMAND] = {"command   {1}", "命令   {1}"},
    [W_T_RUNS_ON] = {"ended     not yet", "结束   尚未"},
    [W_T_SILENT_END] = {"ended     without a word", "结束   无声无息"},
    [W_T_ADVICE] = {"What to do", "怎么办"},
    [W_T_COST] = {"price: {1}", "代价:{1}"},
    [W_T_EVIDENCE] = {"Evidence", "证据"},
    [W_T_CONSEQUENCES] = {"What followed from it", "由此引起"},
    [W_T_TIMELINE] = {"The last minute", "最后一分钟"},
    [W_T_NATIVE] = {"Native stack (innermost first)", "本机调用栈(最内层在前)"},
    [W_T_PYTHON] = {"Python stack (innermost first)", "Python 调用栈(最内层在前)"},
    [W_T_CULPRIT] = {"   <- the first frame outside libc", "   <- libc 之外的第一帧"},
    [W_T_NO_STACK] = {"not taken: {1}", "未取得:{1}"},
    [W_T_OUTPUT] = {"Last output of pid {1}", "pid {1} 最后的输出"},
    [W_T_FILES] = {"Last data files it opened (newest first)", "它最后打开的数据文件(最新在前)"},
    [W_T_LIMITS] = {"Limits of pid {1} (soft / hard)", "pid {1} 的资源限制(软 / 硬)"},
    [W_T_USE] = {"Use as it ended", "结束时的用量"},
    [W_T_TRACEBACK] = {"Its Python exception", "它的 Python 异常"},
    [W_T_OTHER] = {"Another incident", "另一事件"},
    [W_T_BEYOND] = {"{1} further incidents were counted, but not kept",
                    "另有 {1} 个事件只计数,未保留"},
    [W_T_MACHINE] = {"Machine and settings", "机器与设置"},
    [W_T_GUARD] = {"nnguard itself", "nnguard 自身"},
    [W_T_LOST] = {"{1} records were overwritten unread, {2} were torn by a killed writer",
                  "{1} 条记录未读即被覆盖,{2} 条因写入者被杀而残缺"},
    [W_T_UNLIMITED] = {"unlimited", "无限制"},
    [W_T_PROCESS] = {"Process", "进程"},
};

const char *nng_word(enum nng_word w, enum nng_lang lang)
{
    const char *s = lang == NNG_ZH ? words[w].zh : words[w].en;
    return s ? s : words[w].en;
}

const char *nng_pick(const struct nng_words *w, enum nng_lang lang)
{
    return lang == NNG_ZH && w->zh[0] ? w->zh : w->en;
}

char *nng_say(char *out, size_t n, enum nng_lang lang, enum nng_word w, const char *const *args)
{
    size_t len = 0;
    for (const char *t = nng_word(w, lang); *t && len + 1 < n;) {
        if (t[0] == '{' && t[1] >= '1' && t[1] <= '9' && t[2] == '}') {
            const char *a = args[t[1] - '1'];
            size_t room = n - 1 - len, m = strlen(a);
            if (m > room)
                m = room;
            memcpy(out + len, a, m);
            len += m;
            t += 3;
        } else {
            out[len++] = *t++;
        }
    }
    out[len] = 0;
    return out;
}
