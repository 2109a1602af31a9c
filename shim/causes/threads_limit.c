/* SPDX-License-Identifier: MIT
 *
 * threads_limit: EAGAIN from pthread_create, fork or clone. Two limits do that, and they need different
 * cures: RLIMIT_NPROC (which root and CAP_SYS_RESOURCE pass by) and the pids cgroup. The limit that
 * OpenBLAS prints is RLIMIT_NPROC, even when it was the cgroup. pthread_create also says EAGAIN when the
 * stack of the new thread could not be mapped, so that without a limit shown this is only likely.
 */
#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

enum which { NOT_SHOWN, PIDS_CGROUP, NPROC, KERNEL };

static bool makes_tasks(enum nng_call c)
{
    return c == NNG_C_PTHREAD_CREATE || c == NNG_C_FORK || c == NNG_C_VFORK ||
           c == NNG_C_POSIX_SPAWN;
}

static const struct nng_failcall *failed(const struct nng_evidence *ev)
{
    for (int i = 0; i < ev->n_fails; i++)
        if (ev->fails[i].pid == ev->who.pid && ev->fails[i].err == EAGAIN &&
            makes_tasks(ev->fails[i].call))
            return &ev->fails[i];
    return NULL;
}

static bool speaks_of_it(const struct nng_evidence *ev)
{
    static const char *const sign[] = {"can't start new thread",
                                       "cannot start new thread",
                                       "blas_thread_init: pthread_create failed",
                                       "libgomp: Thread creation failed",
                                       "pthread_create failed",
                                       "Unable to create new thread",
                                       "thread constructor failed"};

    for (size_t i = 0; i < sizeof sign / sizeof sign[0]; i++)
        if (nng_ev_says(ev, sign[i]))
            return true;
    /* flock, sockets and pipes say the same */
    if (nng_ev_type_is(ev, "BlockingIOError") && failed(ev) &&
        strstr(ev->tb.message, "Resource temporarily unavailable"))
        return true;
    return nng_ev_signal(ev) == SIGABRT && strstr(ev->tail, "Resource temporarily unavailable");
}

/* What was there at the failure and is not counted any more: threads of the victim, other processes. */
static int64_t tasks_lost(const struct nng_evidence *ev, const struct nng_failcall *f)
{
    int64_t n = 0;

    if (f && f->free > 0 && f->free < INT32_MAX)
        n = f->free - (ev->pids.threads_now > 0 ? ev->pids.threads_now : 0);
    return (n > 0 ? n : 0) + (f && ev->pids.others_lost > 0 ? ev->pids.others_lost : 0);
}

static int64_t then(int64_t now, const struct nng_evidence *ev, const struct nng_failcall *f)
{
    return now >= 0 && now < INT32_MAX ? now + tasks_lost(ev, f) : now;
}

/* RLIMIT_NPROC at the failure, as it recorded it; -1 none, -2 unknown. */
static int64_t nproc_of(const struct nng_evidence *ev, const struct nng_failcall *f)
{
    if (f && f->total > 0)
        return f->total;
    return ev->pids.nproc_soft != -2 ? ev->pids.nproc_soft : nng_ev_rlim(ev, RLIMIT_NPROC, false);
}

static enum which limit_of(const struct nng_evidence *ev, const struct nng_failcall *f, bool *shown)
{
    const struct nng_pidscope *p = &ev->pids;
    int64_t soft = nproc_of(ev, f), tasks = then(p->user_tasks, ev, f);
    int64_t held = then(p->current, ev, f);
    int64_t near = soft > 0 ? (soft < 100 ? 2 : soft / 50) : 0;
    bool nproc = soft > 0 && !p->privileged && tasks >= soft - near;
    bool full = p->max > 0 && held >= p->max - p->max / 50;
    bool nearly = p->max > 0 && held >= p->max - (p->max < 40 ? 4 : p->max / 10);

    *shown = true;
    /* The count alone does not do: it may be another session's, or of a failure that was handled. */
    if (p->max_events > 0 && nearly)
        return PIDS_CGROUP;
    if (nproc && !full)
        return NPROC;
    /* The events are readable and did not rise: it was not the cgroup. */
    if (p->max_events < 0 && full && !nproc)
        return PIDS_CGROUP;
    *shown = false;
    if (p->max_events != 0 && nearly)
        return PIDS_CGROUP;
    if (soft > 0 && !p->privileged && p->max <= 0)
        return NPROC;
    if (p->threads_max > 0 && p->user_tasks > p->threads_max - p->threads_max / 50)
        return KERNEL;
    return NOT_SHOWN;
}

/* pthread_create says EAGAIN for that, too. How large the stack was to be is not recorded. */
static bool no_room_for_a_stack(const struct nng_evidence *ev)
{
    int64_t limit = nng_ev_rlim(ev, RLIMIT_AS, false), stack = nng_ev_rlim(ev, RLIMIT_STACK, false);

    if (stack < (64 << 20))
        stack = 64 << 20;
    return limit > 0 && ev->usage.vm_size > 0 && ev->usage.vm_size < INT64_MAX / 2 &&
           limit - (int64_t)ev->usage.vm_size < stack;
}

/* The limit is that of a session, of a service, or of a job that somebody else made the cgroup for. */
static void raise_cgroup(struct nng_verdict *v, const struct nng_evidence *ev, int64_t want)
{
    const char *path = ev->pids.path, *user = strstr(path, "/user-"), *name = strrchr(path, '/');
    size_t n = name ? strlen(name) : 0;
    struct nng_fix *f = nng_v_fix(v, false, "raise the limit of its cgroup; needs root: %s",
                                  "提高所在 cgroup 的上限,需要 root 权限:%s", path);

    if (n > 9 && !strcmp(name + n - 8, ".service") && !user)
        nng_fix_command(f, "sudo systemctl set-property %s TasksMax=%lld", name + 1,
                        (long long)want);
    else if (user && strstr(user, ".slice"))
        nng_fix_command(f, "sudo systemctl set-property %.*s TasksMax=%lld",
                        (int)(strstr(user, ".slice") + 6 - user - 1), user + 1, (long long)want);
    else
        nng_fix_command(f, "echo %lld | sudo tee %s%s/pids.max", (long long)want,
                        strncmp(path, "/sys/", 5) ? "/sys/fs/cgroup" : "", path);
}

static void advise(struct nng_verdict *v, const struct nng_evidence *ev, enum which which,
                   const struct nng_failcall *failed_call)
{
    int64_t want = 4096;
    int64_t have = which == PIDS_CGROUP ? ev->pids.max : nproc_of(ev, failed_call);
    struct nng_fix *f =
        nng_v_fix(v, false, "one compute thread in each worker", "每个工作进程只用一个计算线程");

    nng_fix_command(f, "OMP_NUM_THREADS=1 %s", nng_fix_trainer(ev));
    nng_fix_cost(f, "costs little", "影响很小");
    while (have > 0 && want / 2 < have && want < 1 << 22)
        want *= 2;
    if (which == PIDS_CGROUP && ev->machine.place == NNG_PL_DOCKER) {
        f = nng_v_fix(v, false, "a higher limit of the container", "提高容器的上限");
        nng_fix_command(f, "%s run --pids-limit=%lld …", nng_fix_engine(ev), (long long)want);
    } else if (which == PIDS_CGROUP && ev->machine.place == NNG_PL_KUBERNETES) {
        f = nng_v_fix(v, false, "in the kubelet's configuration, by the cluster's admin",
                      "由集群管理员在 kubelet 配置中修改");
        nng_fix_command(f, "podPidsLimit: %lld", (long long)want);
    } else if (which == PIDS_CGROUP) {
        raise_cgroup(v, ev, want);
    } else if (which == NOT_SHOWN) {
        f = nng_v_fix(v, false, "look which limit it is: ulimit -u, or pids.max of its cgroup",
                      "查看是哪一个上限:ulimit -u,还是所在 cgroup 的 pids.max");
        nng_fix_command(f, "ulimit -u; cat /sys/fs/cgroup/pids.max");
    } else if (which == NPROC && nng_ev_rlim(ev, RLIMIT_NPROC, true) > 0 &&
               nng_ev_rlim(ev, RLIMIT_NPROC, true) < want) {
        nng_fix_ulimit(v, ev, 'u', "nproc", want);
    } else if (which == NPROC) {
        f = nng_v_fix(v, false, "more processes and threads for this user",
                      "提高该用户的进程和线程上限");
        nng_fix_command(f, "ulimit -u %lld; %s", (long long)want, nng_fix_trainer(ev));
    } else {
        f = nng_v_fix(v, false, "the machine's own limit; needs root", "整机的上限,需要 root 权限");
        nng_fix_command(
            f, "sudo sysctl kernel.threads-max=%lld",
            (long long)(ev->pids.threads_max < INT32_MAX ? ev->pids.threads_max * 2 : INT32_MAX));
    }
    if (nng_ev_workers(ev) > 1)
        nng_fix_fewer_workers(v, ev, nng_ev_workers(ev) / 2);
}

static void say(struct nng_verdict *v, const struct nng_evidence *ev, enum which which,
                const struct nng_failcall *f)
{
    const struct nng_pidscope *p = &ev->pids;

    if (which == PIDS_CGROUP) {
        nng_v_why(v, "no more threads, the container's limit of processes is %lld",
                  "无法再创建线程,容器的进程数上限为 %lld", (long long)p->max);
        nng_v_proof(v, "its pids cgroup held %lld of %lld; not a limit of this user",
                    "其 pids cgroup 已有 %lld 个,上限 %lld;不是该用户自身的上限",
                    (long long)then(p->current, ev, f), (long long)p->max);
    } else if (which == NPROC) {
        nng_v_why(v, "no more threads, this user may have %lld (ulimit -u)",
                  "无法再创建线程,该用户的上限为 %lld(ulimit -u)", (long long)nproc_of(ev, f));
        if (then(p->user_tasks, ev, f) >= 0)
            nng_v_proof(v, "this user had %lld processes and threads of %lld",
                        "当时该用户已有 %lld 个进程和线程,上限 %lld",
                        (long long)then(p->user_tasks, ev, f), (long long)nproc_of(ev, f));
    } else if (which == KERNEL) {
        nng_v_why(v, "no more threads, the machine's limit is %lld",
                  "无法再创建线程,整机上限为 %lld", (long long)p->threads_max);
    } else {
        nng_v_why(v, "no more threads or processes could be made", "无法再创建线程或进程");
    }
    nng_v_short(v, "no more threads or processes could be made", "无法再创建线程或进程");
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const struct nng_failcall *f = failed(ev);
    int signo = nng_ev_signal(ev);
    enum nng_confidence conf = NNG_LIKELY;
    bool shown = false;
    enum which which;

    /* OpenBLAS raises SIGINT at itself, which Python shows as a KeyboardInterrupt. */
    if (!nng_ev_left(ev) && signo != SIGABRT && signo != SIGINT)
        return NNG_NO;
    if (!speaks_of_it(ev))
        return NNG_NO;
    if (signo == SIGABRT && !f && !strstr(ev->tail, "thread"))
        return NNG_NO;
    which = limit_of(ev, f, &shown);
    if (f && shown && (nng_ev_left(ev) || signo == SIGABRT))
        conf = NNG_CERTAIN;
    else if (!f)
        nng_v_doubt(v, "the failed call itself was not recorded", "没有记录到失败的调用本身");
    else if (no_room_for_a_stack(ev))
        nng_v_doubt(v, "perhaps its stack did not fit: ulimit -v is %s, it held %s",
                    "可能是线程栈放不下:ulimit -v 为 %s,它已占用 %s",
                    nng_bytes(nng_ev_rlim(ev, RLIMIT_AS, false)),
                    nng_bytes((int64_t)ev->usage.vm_size));
    else
        nng_v_doubt(v, "neither of the two limits (ulimit -u, pids cgroup) was seen to be reached",
                    "没有看到两种上限(ulimit -u、pids cgroup)中的任何一种被达到");
    say(v, ev, which, f);
    if (f)
        nng_v_proof(v, "%s failed with %s", "%s 失败:%s", nng_call_name(f->call),
                    nng_errno_name(f->err));
    nng_v_signal_facts(v, ev);
    nng_v_exception_facts(v, ev);
    nng_v_fact_int(v, "pids.max", ev->pids.max, "pids.max");
    nng_v_fact_int(v, "pids.current", ev->pids.current, "pids.current");
    nng_v_fact_int(v, "pids.max_events", ev->pids.max_events, "pids.events");
    nng_v_fact_int(v, "rlimit.nproc_soft", nproc_of(ev, f), "getrlimit");
    nng_v_fact_int(v, "user.tasks", ev->pids.user_tasks, "/proc");
    nng_v_fact_str(v, "threads.limit",
                   which == PIDS_CGROUP ? "pids cgroup"
                   : which == NPROC     ? "RLIMIT_NPROC"
                   : which == KERNEL    ? "kernel.threads-max"
                                        : "",
                   "counters above");
    if (f)
        nng_v_fail_facts(v, f);
    advise(v, ev, which, f);
    return conf;
}

NNG_CAUSE(threads_limit, 18, match);
