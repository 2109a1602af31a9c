/* SPDX-License-Identifier: MIT
 *
 * worker_fpe: SIGFPE raised by the kernel: nearly always an integer division by zero in native code.
 */
#include "crash.h"

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const struct nng_fault *f = nng_ev_fault(ev, SIGFPE);
    enum nng_confidence conf = NNG_LIKELY;

    if (nng_ev_signal(ev) != SIGFPE || (f && f->code <= 0) || (!f && nng_ev_killer(ev, SIGFPE)))
        return NNG_NO;
    if (f && f->code == 1)
        nng_v_why(v, "crashed, integer division by zero in native code",
                  "崩溃,原生代码中整数除以零");
    else if (f && f->code == 2)
        nng_v_why(v, "crashed, integer overflow in native code", "崩溃,原生代码中整数溢出");
    else
        nng_v_why(v, "crashed, arithmetic error in native code", "崩溃,原生代码中的算术错误");
    nng_v_short(v, "a process crashed (SIGFPE)", "有进程崩溃(SIGFPE)");
    if (f)
        conf = nng_ev_cap(ev, v, NNG_CERTAIN);
    else
        nng_v_doubt(v, "the fault itself was not seen: it may have been sent",
                    "没有看到出错本身:也可能是被发送的信号");
    nng_v_crash(v, ev, f);
    return conf;
}

NNG_CAUSE(worker_fpe, NNG_RANK_SHAPE, match);
