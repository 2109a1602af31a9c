/* SPDX-License-Identifier: MIT
 *
 * worker_illegal_instruction: SIGILL raised by the kernel: a library built for a newer processor, or a
 * deliberate trap in native code.
 */
#include "crash.h"

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const struct nng_fault *f = nng_ev_fault(ev, SIGILL);
    enum nng_confidence conf = NNG_LIKELY;
    struct nng_fix *fix;

    if (nng_ev_signal(ev) != SIGILL || (f && f->code <= 0) || (!f && nng_ev_killer(ev, SIGILL)))
        return NNG_NO;
    nng_v_why(v, "crashed, an instruction that this processor does not know",
              "崩溃,遇到本机处理器不认识的指令");
    nng_v_short(v, "a process crashed (SIGILL)", "有进程崩溃(SIGILL)");
    if (f)
        conf = nng_ev_cap(ev, v, NNG_CERTAIN);
    else
        nng_v_doubt(v, "the fault itself was not seen: it may have been sent",
                    "没有看到出错本身:也可能是被发送的信号");
    fix = nng_v_fix(v, false, "a build of that library for this processor, whose flags are these",
                    "换用适合本机处理器的版本,其指令集标志如此");
    nng_fix_command(fix, "grep -m1 flags /proc/cpuinfo");
    nng_v_crash(v, ev, f);
    return conf;
}

NNG_CAUSE(worker_illegal_instruction, NNG_RANK_SHAPE, match);
