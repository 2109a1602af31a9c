/* SPDX-License-Identifier: MIT
 *
 * worker_bus_error: a SIGBUS that has nothing to do with a file's room or size: a misaligned access, a
 * device that went away, huge pages, or one of which nothing is known.
 */
#include "crash.h"

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const struct nng_fault *f = nng_ev_fault(ev, SIGBUS);
    enum nng_confidence conf = NNG_CERTAIN;
    struct nng_bus b;

    if (nng_ev_signal(ev) != SIGBUS || (f && f->code <= 0) || (!f && nng_ev_killer(ev, SIGBUS)))
        return NNG_NO;
    if (!f) {
        nng_v_why(v, "bus error: often /dev/shm or a disk is full, or a mapped file was cut short",
                  "总线错误:常见原因是 /dev/shm 或磁盘已满,或映射的文件被截短");
        nng_v_doubt(v, "the address of the fault was not seen; it would tell which",
                    "没有看到出错的地址;有了它才能区分");
        if (ev->shm.present && ev->shm.total > 0)
            nng_v_proof(v, "/dev/shm has %s, %s are free now", "/dev/shm 共 %s,现剩余 %s",
                        nng_bytes(ev->shm.total), nng_bytes(ev->shm.free));
        nng_v_signal_facts(v, ev);
        nng_v_fix(v, false, "look at the room in /dev/shm and on the disk with the data",
                  "查看 /dev/shm 和数据所在磁盘的余量");
        nng_fix_command(&v->fix[v->n_fix - 1], "df -h /dev/shm .");
        return NNG_POSSIBLE;
    }
    if (nng_ev_bus(ev, &b)) {
        if (b.file) {
            nng_v_why(v, "bus error in the mapped file %s", "映射文件 %s 上的总线错误", b.name);
            nng_v_doubt(v, "neither its size nor the room there explains it",
                        "文件大小和剩余空间都不能解释");
            conf = NNG_UNKNOWN;
        } else if (b.device) {
            nng_v_why(v, "bus error: the device behind %s did not answer",
                      "总线错误:%s 对应的设备没有响应", b.name);
            nng_v_doubt(v, "the kernel's log (Xid, PCIe) would make it certain",
                        "内核日志(Xid、PCIe)可以确定这一点");
            conf = NNG_LIKELY;
        } else if (b.huge) {
            nng_v_why(v, "bus error: no huge page was left", "总线错误:没有可用的大页");
            nng_v_doubt(v, "HugePages_Free in /proc/meminfo at that moment would make it certain",
                        "当时 /proc/meminfo 中的 HugePages_Free 可以确定这一点");
            conf = NNG_LIKELY;
        } else {
            nng_v_why(v, "bus error at 0x%llx, which belongs to no file",
                      "总线错误,地址 0x%llx 不属于任何文件", (unsigned long long)f->addr);
            nng_v_doubt(v, "the mapping at that address was not seen", "没有看到该地址的映射");
            conf = f->has_map ? NNG_LIKELY : NNG_POSSIBLE;
        }
        nng_v_bus_facts(v, &b);
    } else if (f->code == 1) {
        nng_v_why(v, "bus error: a misaligned access (a bug in native code)",
                  "总线错误:未对齐的内存访问(原生代码的缺陷)");
    } else {
        nng_v_why(v, "bus error (si_code %d), not of a file", "总线错误(si_code %d),与文件无关",
                  f->code);
    }
    conf = nng_ev_cap(ev, v, conf);
    nng_v_crash(v, ev, f);
    return conf;
}

NNG_CAUSE(worker_bus_error, NNG_RANK_SHAPE + 1, match);
