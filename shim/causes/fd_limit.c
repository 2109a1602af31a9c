/* SPDX-License-Identifier: MIT
 *
 * fd_limit: no file descriptor left, in the process (EMFILE) or on the machine (ENFILE). torch passes
 * every batch as a descriptor, so this is a usual end of loaders with many batches in flight.
 */
#include "common.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

static bool speaks_of_it(const struct nng_evidence *ev)
{
    return nng_ev_errno_in_words(ev, EMFILE, "Too many open files") ||
           nng_ev_errno_in_words(ev, ENFILE, "Too many open files in system") ||
           strstr(ev->tb.message, "Too many open files") ||
           strstr(ev->tb.root_message, "Too many open files") ||
           (strstr(ev->tb.message, "ancdata") && strstr(ev->tb.message, "received"));
}

static void advise(struct nng_verdict *v, const struct nng_evidence *ev, bool system)
{
    int64_t soft = nng_ev_rlim(ev, RLIMIT_NOFILE, false),
            hard = nng_ev_rlim(ev, RLIMIT_NOFILE, true);
    int64_t want = 65536;
    struct nng_fix *f;

    if (system) {
        f = nng_v_fix(v, false, "the machine's own limit; needs root", "整机的上限,需要 root 权限");
        nng_fix_command(f, "sudo sysctl fs.file-max=9223372036854775807");
        return;
    }
    while (soft > 0 && want < soft * 4 && want < 1 << 20)
        want *= 2;
    if (hard > soft && soft > 0) {
        f = nng_v_fix(v, false, "allowed here up to %lld", "此处最多可设为 %lld", (long long)hard);
        nng_fix_command(f, "ulimit -n %lld; %s", (long long)(hard < want ? hard : want),
                        nng_fix_trainer(ev));
        nng_fix_rescue(v, ev, "fd");
    } else {
        nng_fix_ulimit(v, ev, 'n', "nofile", want);
    }
    f = nng_v_fix(v, true, "let torch share by file names instead of descriptors",
                  "让 torch 通过文件名而不是描述符共享");
    nng_fix_command(f, "torch.multiprocessing.set_sharing_strategy('file_system')");
    nng_fix_cost(f, "a killed run then leaves files in /dev/shm",
                 "训练被杀时会在 /dev/shm 留下文件");
}

/* Python opens its own traceback.py to say how it ends; that this failed shows an exception that nobody
 * caught, without a descriptor left. */
static bool speechless(const struct nng_evidence *ev)
{
    for (int i = 0; i < ev->n_fails; i++) {
        const struct nng_failcall *f = &ev->fails[i];
        const char *slash = strrchr(f->path, '/');
        if (f->pid == ev->who.pid && f->err == EMFILE && slash &&
            strcmp(slash, "/traceback.py") == 0)
            return true;
    }
    return false;
}

/* Not counting what is closed as a process leaves: was it at its limit to the end, or far below? */
static bool at_the_limit(const struct nng_evidence *ev, int64_t soft)
{
    return ev->has_usage && soft > 0 && ev->usage.fds >= soft - soft / 10;
}

static bool far_below(const struct nng_evidence *ev, int64_t soft)
{
    return ev->has_usage && soft > 0 && ev->usage.fds > 0 && ev->usage.fds < soft / 2;
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    bool sure = false,
         abort = nng_ev_signal(ev) == SIGABRT && strstr(ev->tail, "Too many open files");
    const struct nng_failcall *f;
    int64_t soft = nng_ev_rlim(ev, RLIMIT_NOFILE, false);
    enum nng_confidence conf = NNG_LIKELY;
    bool system, silent;

    silent = nng_ev_left(ev) && ev->status.known && ev->status.code == 1 && !ev->tb.present;
    if (!silent && !(nng_ev_left(ev) && ev->tb.present && speaks_of_it(ev)) && !abort)
        return NNG_NO;
    f = nng_ev_blamed(ev, EMFILE, -1, &sure);
    if (!f)
        f = nng_ev_blamed(ev, ENFILE, -1, &sure);
    if (silent && (!f || ev->time_ns - f->time_ns > NNG_SEC))
        return NNG_NO;
    system = f ? f->err == ENFILE : strstr(ev->tb.message, "in system") != NULL;
    if (f && sure && !abort && (!silent || speechless(ev))) {
        conf = NNG_CERTAIN;
    } else if (silent) {
        /* One that closed some and went on shows few of them as it leaves. */
        if (!at_the_limit(ev, soft) && !nng_ev_last_said(ev, "Too many open files"))
            conf = NNG_POSSIBLE;
        nng_v_doubt(v,
                    "it left without a word, which is usual when not even a traceback can be read",
                    "它没有留下任何输出就退出了:连回溯所需的文件都打不开时常常如此");
    } else if (!f && !system && far_below(ev, soft)) {
        conf = NNG_POSSIBLE;
        nng_v_doubt(v, "it had %u descriptors of %lld: perhaps a limit of another kind (inotify)",
                    "它只用了 %u 个描述符(上限 %lld):可能是另一种上限(inotify)", ev->usage.fds,
                    (long long)soft);
    } else {
        nng_v_doubt(v, "the failed call itself was not recorded", "没有记录到失败的调用本身");
    }
    if (system)
        nng_v_why(v, "too many files are open on this machine", "本机打开的文件过多");
    else if (soft > 0)
        nng_v_why(v, "it has too many open files (ulimit -n is %lld)",
                  "打开的文件过多(ulimit -n 为 %lld)", (long long)soft);
    else
        nng_v_why(v, "it has too many open files", "打开的文件过多");
    nng_v_short(v, "too many files were open", "打开的文件过多");
    /* Read at the end, descriptors may have been closed already: then it says nothing. */
    if (f && f->err == EMFILE && f->free > 0 && f->total > 0)
        nng_v_proof(v, "%lld of %lld descriptors were in use", "已用描述符 %lld 个,上限 %lld",
                    (long long)f->free, (long long)f->total);
    else if (at_the_limit(ev, soft))
        nng_v_proof(v, "%u of %lld descriptors were in use", "已用描述符 %u 个,上限 %lld",
                    ev->usage.fds, (long long)soft);
    if (f)
        nng_v_proof(v, "%s failed with %s in pid %d", "%s 失败:%s(pid %d)", nng_call_name(f->call),
                    nng_errno_name(f->err), f->pid);
    else
        nng_v_proof(v, "it says: %s", "它自己的输出:%s", nng_text_short(ev->tb.message, 100));
    nng_v_signal_facts(v, ev);
    nng_v_exception_facts(v, ev);
    nng_v_fact_int(v, "rlimit.nofile_soft", soft, "getrlimit");
    nng_v_fact_int(v, "rlimit.nofile_hard", nng_ev_rlim(ev, RLIMIT_NOFILE, true), "getrlimit");
    nng_v_fact_int(v, "victim.fds", ev->has_usage && ev->usage.fds ? (int64_t)ev->usage.fds : -1,
                   "/proc/self/fd");
    if (f)
        nng_v_fail_facts(v, f);
    advise(v, ev, system);
    return nng_ev_end_cap(ev, v, f, conf);
}

NNG_CAUSE(fd_limit, 17, match);
