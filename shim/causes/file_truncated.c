/* SPDX-License-Identifier: MIT
 *
 * file_truncated: a mapped file is shorter than its mapping: somebody cut it or replaced it while it was
 * in use. The same SIGBUS and si_code as a full file system: only the file's size tells. A device's
 * size means nothing.
 */
#include "common.h"

static enum nng_confidence judge(const struct nng_evidence *ev, const struct nng_bus *b,
                                 struct nng_verdict *v)
{
    if (b->end == NNG_END_PAST) {
        if (!b->recorded || (b->tmpfs && b->room == NNG_ROOM_ENOUGH))
            return nng_ev_cap(ev, v, NNG_CERTAIN);
        nng_v_doubt(v, "the size is the last one that this run set, it may have grown since",
                    "该大小是本次训练最后设定的,之后可能又变大");
        return NNG_LIKELY;
    }
    if (b->end == NNG_END_UNKNOWN && b->room == NNG_ROOM_ENOUGH) {
        nng_v_doubt(v, "certain if the file's size at that moment were known",
                    "若能知道当时的文件大小才能确定");
        return NNG_LIKELY;
    }
    if (b->end == NNG_END_INSIDE && b->room == NNG_ROOM_ENOUGH) {
        nng_v_doubt(v, "it may have been cut and written anew before it was looked at",
                    "可能在查看之前它被截短后又重新写入");
        return NNG_POSSIBLE;
    }
    if (b->end == NNG_END_UNKNOWN && b->room != NNG_ROOM_NONE) {
        nng_v_doubt(v, "neither the file's size nor the room on its disk is known",
                    "文件的大小和磁盘余量都不清楚");
        return NNG_POSSIBLE;
    }
    return NNG_NO;
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    struct nng_bus b;
    enum nng_confidence conf;

    if (!nng_ev_bus(ev, &b) || !b.file || (conf = judge(ev, &b, v)) == NNG_NO)
        return NNG_NO;
    nng_v_why(v, "it read or wrote a mapped file beyond its end: %s",
              "它访问了映射文件末尾之后的位置:%s", b.name);
    nng_v_short(v, "a mapped file was shorter than what was read of it: %s",
                "映射的文件比所访问的位置短:%s", b.name);
    if (b.size >= 0)
        nng_v_proof(v, "the file has %s, the read or write was at %s", "文件现为 %s,访问位置在 %s",
                    nng_bytes(b.size), nng_bytes(b.offset));
    nng_v_proof(v, "so it was cut short after it was mapped, or never was as long as its mapping",
                "即:映射之后被截短,或者从来没有映射那么长");
    if (b.room == NNG_ROOM_ENOUGH || b.room == NNG_ROOM_LITTLE)
        nng_v_proof(v, "%s are free there: it is not full", "那里还剩 %s,并未写满",
                    nng_bytes(b.free));
    nng_v_signal_facts(v, ev);
    nng_v_bus_facts(v, &b);
    if (b.devshm)
        nng_v_fix(v, false, "look for what shortens this shared memory, in or outside this run",
                  "查找是谁缩短了这块共享内存");
    else
        nng_v_fix(v, false, "make this file anew (restore it, or preprocess again)",
                  "重新生成该文件(恢复备份,或重新预处理)");
    nng_v_fix(v, false, "never two writers of one file: no second preprocessing during training",
              "不要让两个进程写同一文件:训练时不要再次预处理");
    return conf;
}

NNG_CAUSE(file_truncated, 12, match);
