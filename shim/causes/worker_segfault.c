/* SPDX-License-Identifier: MIT
 *
 * worker_segfault: SIGSEGV raised by the kernel, in a worker or the trainer. Tells null, wild and
 * unknown addresses and stack overflows apart, and whose code it was.
 */
#include "crash.h"

static void say_address(struct nng_verdict *v, const struct nng_fault *f)
{
    unsigned long long a = f->addr;

    if (f->stack_overflow)
        nng_v_why(v, "crashed, its stack overflowed (too deep a recursion, or too small a stack)",
                  "崩溃,栈溢出(递归过深,或栈太小)");
    else if (f->code == 128)
        nng_v_why(v, "crashed, it used an address that cannot exist",
                  "崩溃,使用了不可能存在的地址");
    else if (a < 4096)
        nng_v_why(v, "crashed, it used a null pointer", "崩溃,使用了空指针");
    else if (f->code == 2)
        nng_v_why(v, "crashed, it may not access the memory at 0x%llx",
                  "崩溃,无权访问地址 0x%llx 处的内存", a);
    else if (f->code == 4)
        nng_v_why(v, "crashed, the memory at 0x%llx is locked by a protection key",
                  "崩溃,地址 0x%llx 处的内存受保护键保护", a);
    else
        nng_v_why(v, "crashed, it used memory at 0x%llx that does not exist",
                  "崩溃,访问了不存在的内存地址 0x%llx", a);
    nng_v_short(v, "a process crashed (SIGSEGV)", "有进程崩溃(SIGSEGV)");
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const struct nng_fault *f;
    enum nng_confidence conf;

    if (nng_ev_signal(ev) != SIGSEGV)
        return NNG_NO;
    f = nng_ev_fault(ev, SIGSEGV);
    if (f && f->code <= 0)
        return NNG_NO;
    if (f) {
        say_address(v, f);
        conf = nng_ev_cap(ev, v, NNG_CERTAIN);
    } else {
        nng_v_why(v, "crashed (segmentation fault)", "崩溃(段错误)");
        nng_v_doubt(v, "the fault itself was not seen: perhaps a stack overflow, or a sent signal",
                    "没有看到出错本身:也许是栈溢出,也许是被发送的信号");
        conf = nng_ev_killer(ev, SIGSEGV) ? NNG_NO : NNG_LIKELY;
    }
    if (f && f->stack_overflow) {
        struct nng_fix *fix = nng_v_fix(v, false, "a larger stack, if the recursion is meant to be",
                                        "若递归是有意为之,则加大栈");
        nng_fix_command(fix, "ulimit -s 65536; %s", nng_fix_trainer(ev));
    }
    nng_v_crash(v, ev, f);
    return conf;
}

NNG_CAUSE(worker_segfault, NNG_RANK_SHAPE, match);
