/* SPDX-License-Identifier: MIT
 *
 * io_error: a disk, network share or memory module failed: EIO, a SIGBUS inside a file with room left, or
 * a hardware memory error that the processor reported (BUS_MCEERR).
 */
#include "common.h"

#include <errno.h>
#include <string.h>

static void advise(struct nng_verdict *v, const char *path)
{
    struct nng_fix *f = nng_v_fix(v, false, "the kernel's log names the disk or share that fails",
                                  "内核日志会写明是哪块盘或哪个共享目录出错");

    nng_fix_command(f, "sudo dmesg -T | grep -iE 'i/o error|nfs|ata|nvme'");
    if (path[0])
        nng_v_fix(v, false, "copy the data to another disk, beginning with %s",
                  "先把数据复制到另一块盘,从 %s 开始", nng_path_short(path, 60));
}

static enum nng_confidence hardware(const struct nng_evidence *ev, const struct nng_fault *f,
                                    struct nng_verdict *v)
{
    struct nng_fix *fix;

    nng_v_why(v, "the machine's memory is faulty (uncorrected hardware error)",
              "本机内存有硬件故障(不可纠正的错误)");
    nng_v_proof(v, "the processor reported it: si_code %d (%s), address 0x%llx",
                "由处理器报告:si_code %d(%s),地址 0x%llx", f->code,
                f->code == 4 ? "BUS_MCEERR_AR" : "BUS_MCEERR_AO", (unsigned long long)f->addr);
    nng_v_signal_facts(v, ev);
    fix = nng_v_fix(v, false, "have a memory module replaced; until then use another machine",
                    "更换内存条;在此之前换一台机器");
    nng_fix_command(fix, "sudo dmesg -T | grep -i 'hardware error'");
    return nng_ev_cap(ev, v, NNG_CERTAIN);
}

static enum nng_confidence by_fault(const struct nng_evidence *ev, const struct nng_bus *b,
                                    struct nng_verdict *v)
{
    enum nng_confidence conf;

    if (!b->file || b->devshm || b->tmpfs || b->end == NNG_END_PAST)
        return NNG_NO;
    if (b->end == NNG_END_INSIDE && (b->room == NNG_ROOM_ENOUGH || !b->writable_shared)) {
        conf = NNG_LIKELY;
        nng_v_doubt(v, "the kernel's log would make it certain", "内核日志可以确定这一点");
    } else if (b->end == NNG_END_INSIDE) {
        conf = NNG_POSSIBLE;
        nng_v_doubt(v, "the disk may also be full: %s are free", "也可能是磁盘已满:剩余 %s",
                    nng_bytes(b->free));
    } else {
        return NNG_NO;
    }
    nng_v_why(v, "reading or writing a mapped file failed (%s)", "读写映射的文件时出错(%s)",
              b->name);
    nng_v_short(v, "reading or writing %s failed", "读写 %s 时出错", b->name);
    nng_v_proof(v, "the page lies inside the file (%s): it was not cut short",
                "该页位于文件范围之内(%s):文件没有被截短", nng_bytes(b->size));
    if (b->free >= 0 && b->room == NNG_ROOM_ENOUGH)
        nng_v_proof(v, "%s are free there: it is not full", "那里还剩 %s,并未写满",
                    nng_bytes(b->free));
    nng_v_signal_facts(v, ev);
    nng_v_bus_facts(v, b);
    advise(v, b->path);
    return conf;
}

static bool on_a_disk(const char *path)
{
    static const char *const not [] = {"/dev/", "/proc/", "/sys/", "pipe:", "socket:", "/pts/"};

    for (size_t i = 0; i < sizeof not / sizeof not [0]; i++)
        if (strncmp(path, not [i], strlen(not [i])) == 0)
            return false;
    return true;
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const struct nng_fault *bus = nng_ev_fault(ev, SIGBUS);
    const struct nng_failcall *f;
    struct nng_bus b;
    bool sure = false, words;
    const char *path;

    if (bus && (bus->code == 4 || bus->code == 5))
        return hardware(ev, bus, v);
    if (nng_ev_bus(ev, &b))
        return by_fault(ev, &b, v);
    words = nng_ev_errno_in_words(ev, EIO, "Input/output error") ||
            nng_ev_errno_in_words(ev, ESTALE, "Stale file handle") ||
            nng_ev_errno_in_words(ev, EREMOTEIO, "Remote I/O error");
    f = nng_ev_blamed(ev, EIO, -1, &sure);
    path = f && f->path[0] ? f->path : nng_ev_path_in_words(ev);
    /* A closed terminal says EIO (`interrupted` tells of it), and devices and /proc for reasons of theirs. */
    if (!nng_ev_left(ev) || !words || !on_a_disk(path))
        return NNG_NO;
    if (path[0])
        nng_v_why(v, "a disk or network share failed (%s)", "磁盘或网络共享出错(%s)",
                  nng_path_short(path, 60));
    else
        nng_v_why(v, "a disk or network share failed", "磁盘或网络共享出错");
    nng_v_short(v, "a disk or network share failed", "磁盘或网络共享出错");
    if (f)
        nng_v_proof(v, "%s failed with %s", "%s 失败:%s", nng_call_name(f->call),
                    nng_errno_name(f->err));
    nng_v_proof(v, "it says: %s", "它自己的输出:%s", nng_text_short(ev->tb.message, 100));
    nng_v_signal_facts(v, ev);
    nng_v_exception_facts(v, ev);
    if (f)
        nng_v_fail_facts(v, f);
    advise(v, path);
    if (f && sure)
        return nng_ev_end_cap(ev, v, f, NNG_CERTAIN);
    nng_v_doubt(v, "the failed call itself was not recorded", "没有记录到失败的调用本身");
    return nng_ev_end_cap(ev, v, f, NNG_LIKELY);
}

NNG_CAUSE(io_error, 14, match);
