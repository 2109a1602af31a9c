/* SPDX-License-Identifier: MIT
 *
 * file_size_limit: RLIMIT_FSIZE (SIGXFSZ, which CPython ignores, so mostly EFBIG), or a file system
 * that cannot hold files of that size.
 */
#include "common.h"

#include <errno.h>
#include <sys/resource.h>

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    int signo = nng_ev_signal(ev);
    const struct nng_fault *fault = nng_ev_fault(ev, SIGXFSZ);
    int64_t limit = nng_ev_rlim(ev, RLIMIT_FSIZE, false);
    bool sure = false;
    const struct nng_failcall *f = nng_ev_blamed(ev, EFBIG, -1, &sure);
    enum nng_confidence conf = NNG_CERTAIN;
    struct nng_fix *fix;

    if (signo == SIGXFSZ) {
        /* The kernel sends it in the writer's own name (SI_USER, its own pid). */
        if (nng_ev_killer(ev, SIGXFSZ) ||
            (fault && fault->code <= 0 && (fault->sender_pid != ev->who.pid || limit < 0)))
            return NNG_NO;
        conf = fault && limit >= 0 ? nng_ev_cap(ev, v, NNG_CERTAIN) : NNG_LIKELY;
        if (conf < NNG_CERTAIN)
            nng_v_doubt(v, "the limit itself could not be read", "没有读到上限本身");
    } else if (nng_ev_left(ev) && nng_ev_errno_in_words(ev, EFBIG, "File too large")) {
        if (!f || !sure || limit < 0) {
            conf = NNG_LIKELY;
            if (limit == -1)
                nng_v_doubt(v, "no limit is set: perhaps the file system has one of its own",
                            "没有设置上限:可能是文件系统自身的限制");
            else
                nng_v_doubt(v, "the failed call or the limit was not recorded",
                            "没有记录到失败的调用或上限");
        }
        conf = nng_ev_end_cap(ev, v, f, conf);
    } else {
        return NNG_NO;
    }
    if (limit >= 0)
        nng_v_why(v, "files may not be larger than %s here (ulimit -f)",
                  "此处文件不得大于 %s(ulimit -f)", nng_bytes(limit));
    else
        nng_v_why(v, "a file became larger than is allowed here", "文件超过了此处允许的大小");
    nng_v_short(v, "the limit on the size of files was reached", "达到文件大小上限");
    if (f)
        nng_v_proof(v, "%s failed with %s: %s", "%s 失败(%s):%s", nng_call_name(f->call),
                    nng_errno_name(f->err), nng_path_short(f->path, 60));
    nng_v_signal_facts(v, ev);
    nng_v_exception_facts(v, ev);
    nng_v_fact_int(v, "rlimit.fsize_bytes", limit, "getrlimit");
    if (f)
        nng_v_fail_facts(v, f);
    if (limit == -1) {
        nng_v_fix(v, false, "write to a file system that takes such files",
                  "写到支持这种大文件的文件系统");
    } else {
        fix = nng_v_fix(v, false, "lift the limit", "解除上限");
        nng_fix_command(fix, "ulimit -f unlimited; %s", nng_fix_trainer(ev));
    }
    return conf;
}

NNG_CAUSE(file_size_limit, 13, match);
