/* SPDX-License-Identifier: MIT
 *
 * shm_removed: a named piece of shared memory or a semaphore is gone although it is still needed: removed
 * by another process, or by systemd-logind at logout (RemoveIPC).
 */
#include "common.h"

#include <errno.h>
#include <string.h>

/* A name that torch or multiprocessing gives, where such things live: in /dev/shm, or a bare "/name" of
 * shm_open and sem_open. "pytorch_model.bin" and "/data/temp-3" are only missing files. */
static bool our_kind(const char *name)
{
    const char *slash = strrchr(name, '/');

    if (slash && slash != name && strncmp(name, "/dev/shm/", 9) != 0)
        return false;
    return nng_ev_shm_name(slash ? slash + 1 : name);
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const char *path = nng_ev_path_in_words(ev);
    bool sure = false;
    const struct nng_failcall *f = nng_ev_blamed(ev, ENOENT, -1, &sure);
    bool torch = strstr(ev->tb.message, "unable to open shared memory object") ||
                 strstr(ev->tb.message, "could not unlink the shared memory file");
    bool python = nng_ev_type_is(ev, "FileNotFoundError") &&
                  (our_kind(path) || strstr(ev->tb.origin, "multiprocessing/shared_memory.py") ||
                   strstr(ev->tb.origin, "multiprocessing/synchronize.py"));
    bool errno2 = nng_ev_errno_in_words(ev, ENOENT, "No such file or directory");
    struct nng_fix *fix;

    if (!nng_ev_left(ev) || !ev->tb.present || !errno2 || !(torch || python))
        return NNG_NO;
    if (f && f->call != NNG_C_SHM_OPEN && f->call != NNG_C_SEM_OPEN && f->call != NNG_C_SHM_UNLINK)
        f = NULL;
    if (path[0])
        nng_v_why(v, "shared memory that it needed was removed: %s", "它需要的共享内存已被删除:%s",
                  path);
    else
        nng_v_why(v, "shared memory that it needed was removed", "它需要的共享内存已被删除");
    nng_v_short(v, "shared memory that it needed was removed", "所需的共享内存已被删除");
    nng_v_proof(v, "not full: the name is gone (errno 2)", "并非已满:名称已不存在(errno 2)");
    if (f)
        nng_v_proof(v, "%s of %s failed with ENOENT", "%s(%s)失败:ENOENT", nng_call_name(f->call),
                    f->path);
    nng_v_signal_facts(v, ev);
    nng_v_exception_facts(v, ev);
    if (f)
        nng_v_fail_facts(v, f);
    nng_v_fact_str(v, "shm.name", path[0] ? path : f ? f->path : "", "exception message");
    fix = nng_v_fix(v, false, "let logout keep the user's shared memory; needs root",
                    "注销时保留该用户的共享内存,需要 root 权限");
    nng_fix_command(fix, "sudo loginctl enable-linger $USER");
    nng_v_fix(v, false, "do not clean /dev/shm while a run is on; no two runs in one cleaned place",
              "训练进行时不要清理 /dev/shm");
    if (f && sure && our_kind(f->path))
        return nng_ev_end_cap(ev, v, f, NNG_CERTAIN);
    nng_v_doubt(v, "who removed it was not seen", "没有看到是谁删除的");
    return nng_ev_end_cap(ev, v, f, NNG_LIKELY);
}

NNG_CAUSE(shm_removed, 19, match);
