/* SPDX-License-Identifier: MIT
 *
 * shm_exhausted: /dev/shm has no room. Two shapes: a SIGBUS at the first touch of a page, or ENOSPC of
 * posix_fallocate, ftruncate, write, shm_open, sem_open with everybody still alive.
 * The look-alikes: a file cut short (file_truncated, same si_code), a full disk (another file system),
 * a SIGBUS that somebody sent (killed_by), and ENOSPC of a commit limit with room left.
 */
#include "common.h"

#include <errno.h>
#include <string.h>

struct numbers {
    int64_t total, free, ask;
    bool inodes;
};

static bool commit_bound(const struct nng_evidence *ev)
{
    return ev->host.overcommit == 2 && ev->host.commit_limit > 0 &&
           ev->host.committed > ev->host.commit_limit - ev->host.commit_limit / 20;
}

/* Numbers from outside, so that sums of a few of them cannot overflow. */
static int64_t sane(int64_t n)
{
    return n < 0 ? 0 : n > INT64_C(1) << 45 ? INT64_C(1) << 45 : n;
}

static int64_t others_hold(const struct nng_evidence *ev, int64_t used)
{
    int64_t ours = sane(ev->shm.held_by_run);

    return ev->shm.held_by_run >= 0 && used > ours ? used - ours : 0;
}

/* What the run has made and not yet used, at the size it gave it; 0 where that is no plan but a sparse
 * file that is never meant to be filled. */
static int64_t planned(const struct nng_evidence *ev)
{
    int64_t sized = ev->shm.sized_by_run;

    return ev->host.total > 0 && sized < ev->host.total ? sane(sized) : 0;
}

/* How much would do: what is held now, and every worker another of the largest batches; or, for
 * nnU-Net, its queue of 6 finished batches and up to 3 a worker in the making; or what was made in
 * full. What rescue keeps elsewhere belongs there too. A quarter on top. 0: nothing is known. */
static int64_t need(const struct nng_evidence *ev, const struct numbers *n)
{
    int64_t workers = nng_ev_workers(ev);
    int64_t total = sane(n->total), free = sane(n->free);
    int64_t used = total > free ? total - free : 0;
    int64_t ask = sane(n->ask > 0                ? n->ask
                       : ev->shm.biggest_ask > 0 ? ev->shm.biggest_ask
                                                 : 1 << 20);
    int64_t others = others_hold(ev, used);
    int64_t a, b, r;

    if (ask == 0 && total == 0)
        return 0;
    if (workers > 4096)
        workers = 4096;
    a = used + ask * workers;
    b = others + ask * (3 * workers + (ev->machine.nnunet ? 6 : 0));
    r = a > b ? a : b;
    if (r < others + planned(ev) + ask)
        r = others + planned(ev) + ask;
    if (ev->shm.rescued > 0 && r < total + ask)
        r = total + ask;
    r += sane(ev->shm.rescued);
    r += r / 4;
    return r < total + total / 2 ? total + total / 2 : r;
}

/* The largest number of workers whose batches fit into what is there; 0 none. */
static int fitting(const struct nng_evidence *ev, const struct numbers *n)
{
    int workers = nng_ev_workers(ev);
    int64_t total = sane(n->total), free = sane(n->free);
    int64_t others = others_hold(ev, total > free ? total - free : 0);
    int64_t ask = sane(n->ask > 0 ? n->ask : ev->shm.biggest_ask);

    if (total <= 0 || ask <= 0 || n->inodes)
        return 0;
    for (int w = workers - 1; w > 0; w--)
        if ((total - others) / ask >= 2 * (int64_t)w + (ev->machine.nnunet ? 6 : 1))
            return w;
    return 0;
}

static void say_size(struct nng_verdict *v, const struct nng_evidence *ev, const struct numbers *n)
{
    int64_t held = ev->shm.held_by_run;
    const char *ask = nng_bytes(n->ask);

    if (n->inodes) {
        nng_v_proof(v, "it has no free file names (inodes) left, %s of %s are free",
                    "它的文件名(inode)已用尽,空间还剩 %s(共 %s)", nng_bytes(n->free),
                    nng_bytes(n->total));
        return;
    }
    if (held > 0 && n->ask > 0 && ev->shm.holders == 1)
        nng_v_proof(v,
                    "its size is %s, %s are free; one process of this run holds %s of it; what did "
                    "not fit is %s",
                    "容量 %s,剩余 %s;本次训练的一个进程占用 %s;放不下的这一块需要 %s",
                    nng_bytes(n->total), nng_bytes(n->free), nng_bytes(held), ask);
    else if (held > 0 && n->ask > 0)
        nng_v_proof(
            v,
            "its size is %s, %s are free; this run's %d processes hold %s of it; what did not "
            "fit is %s",
            "容量 %s,剩余 %s;本次训练的 %d 个进程占用 %s;放不下的这一块需要 %s",
            nng_bytes(n->total), nng_bytes(n->free), ev->shm.holders, nng_bytes(held), ask);
    else if (n->ask > 0)
        nng_v_proof(v, "its size is %s, %s are free; what did not fit is %s",
                    "容量 %s,剩余 %s;放不下的这一块需要 %s", nng_bytes(n->total),
                    nng_bytes(n->free), ask);
    else
        nng_v_proof(v, "its size is %s, %s are free", "容量 %s,剩余 %s", nng_bytes(n->total),
                    nng_bytes(n->free));
}

static void finish(struct nng_verdict *v, const struct nng_evidence *ev, const struct numbers *n)
{
    const struct nng_shm *s = &ev->shm;
    int fit = fitting(ev, n);

    if (s->leaked > 0 && s->leaked_count > 0)
        nng_v_proof(v, "%s of it lie in %d files of processes that are gone",
                    "其中 %s 属于 %d 个遗留文件,其进程已不存在", nng_bytes(s->leaked),
                    s->leaked_count);
    nng_v_signal_facts(v, ev);
    nng_v_fact_int(v, "devshm.free_bytes", n->free, "statfs");
    nng_v_fact_int(v, "devshm.total_bytes", n->total, "statfs");
    nng_v_fact_int(v, "devshm.asked_bytes", n->ask, "the request that failed");
    nng_v_fact_int(v, "devshm.held_by_run_bytes", s->held_by_run, "/proc/PID/fd and maps");
    nng_v_fact_int(v, "devshm.biggest_request_bytes", s->biggest_ask, "hooks, whole run");
    if (s->present) {
        nng_v_fact_int(v, "devshm.named_files", s->named_count, "/dev/shm");
        nng_v_fact_int(v, "devshm.leaked_bytes", s->leaked, "/dev/shm, owners gone");
        nng_v_fact_int(v, "devshm.inodes_free", s->inodes_free, "statfs");
    }
    nng_v_fact_int(v, "run.workers", nng_ev_workers(ev), "journal");
    if (s->leaked > 0 && n->ask > 0 && s->leaked >= n->ask - (n->free > 0 ? n->free : 0)) {
        struct nng_fix *f =
            nng_v_fix(v, false, "remove the files whose processes are gone: they hold %s",
                      "删除进程已不存在的遗留文件:它们占用 %s", nng_bytes(s->leaked));
        nng_fix_command(f, "nnguard clean --yes");
    }
    if (!n->inodes) {
        nng_fix_shm_size(v, ev, need(ev, n));
        nng_fix_rescue(v, ev, "shm");
    } else {
        struct nng_fix *f =
            nng_v_fix(v, false, "more file names; needs root", "增加文件名数量,需要 root 权限");
        nng_fix_command(f, "sudo mount -o remount,nr_inodes=0 /dev/shm");
    }
    if (fit > 0)
        nng_fix_fewer_workers(v, ev, fit);
    nng_fix_no_workers(v, ev);
}

static void say_why(struct nng_verdict *v, const struct nng_evidence *ev, const struct numbers *n)
{
    if (n->inodes) {
        nng_v_why(v, "/dev/shm can hold no more files", "/dev/shm 无法再容纳更多文件");
        nng_v_short(v, "/dev/shm could hold no more files", "/dev/shm 无法再容纳更多文件");
        return;
    }
    /* Half of it free, and yet the batch does not fit: that is too small, not full. */
    bool small = n->free > 0 && n->total > 0 && n->free >= n->total / 2;
    if (ev->alive && small)
        nng_v_why(v, "workers cannot get shared memory, /dev/shm is too small",
                  "工作进程申请不到共享内存,/dev/shm 太小");
    else if (ev->alive)
        nng_v_why(v, "workers cannot get shared memory, /dev/shm is full",
                  "工作进程申请不到共享内存,/dev/shm 已满");
    else if (small)
        nng_v_why(v, "/dev/shm is too small", "/dev/shm 太小");
    else
        nng_v_why(v, "/dev/shm is full", "/dev/shm 已满");
    if (small)
        nng_v_short(v, "/dev/shm was too small", "/dev/shm 太小");
    else
        nng_v_short(v, "/dev/shm was full", "/dev/shm 已满");
}

/* ---- the first shape ---- */
static enum nng_confidence by_fault(const struct nng_evidence *ev, const struct nng_bus *b,
                                    struct nng_verdict *v)
{
    struct numbers n = {b->total, b->free, -1, false};
    enum nng_confidence conf;

    if (!b->devshm || b->end == NNG_END_PAST)
        return NNG_NO;
    if (b->room == NNG_ROOM_NONE && b->end == NNG_END_INSIDE) {
        conf = nng_ev_cap(ev, v, NNG_CERTAIN);
    } else if (b->room == NNG_ROOM_NONE) {
        conf = NNG_LIKELY;
        nng_v_doubt(v, "certain if the file's size were known: one cut short looks the same",
                    "若能知道该文件的大小才能确定:文件被截短时现象相同");
    } else if (b->room == NNG_ROOM_LITTLE && b->end == NNG_END_INSIDE && !commit_bound(ev)) {
        conf = NNG_LIKELY;
        nng_v_doubt(v, "%s were free when it was looked at, a moment after the fault",
                    "出错后片刻查看时还剩 %s", nng_bytes(b->free));
    } else if (b->end == NNG_END_INSIDE && b->room == NNG_ROOM_ENOUGH &&
               nng_ev_fail(ev, ENOSPC, NNG_C_OTHER, false) && !commit_bound(ev)) {
        conf = NNG_POSSIBLE;
        nng_v_doubt(v, "%s were free a moment after the fault", "出错后片刻还剩 %s",
                    nng_bytes(b->free));
    } else {
        return NNG_NO;
    }
    n.ask = b->size > 0 ? b->size : (int64_t)((b->f->map_end - b->f->map_start) & INT64_MAX);
    if (n.ask <= 0 && ev->shm.biggest_ask > 0)
        n.ask = ev->shm.biggest_ask;
    say_why(v, ev, &n);
    say_size(v, ev, &n);
    if (b->end == NNG_END_INSIDE)
        nng_v_proof(v,
                    "the page it touched lies inside its file (%s), so the file was not cut short",
                    "它访问的页位于文件范围之内(%s),因此并非文件被截短", nng_bytes(b->size));
    nng_v_bus_facts(v, b);
    finish(v, ev, &n);
    return conf;
}

/* SIGBUS, and nobody recorded where. */
static enum nng_confidence blind(const struct nng_evidence *ev, struct nng_verdict *v)
{
    struct numbers n = {ev->shm.total, ev->shm.free, ev->shm.biggest_ask, false};
    bool full =
        ev->shm.present && ev->shm.total > 0 && ev->shm.free >= 0 && ev->shm.free < NNG_PAGE_MIN;
    bool tight = ev->shm.present && ev->shm.total > 0 && ev->shm.free >= 0 &&
                 ev->shm.biggest_ask > 0 && ev->shm.free < ev->shm.biggest_ask;

    if (nng_ev_signal(ev) != SIGBUS || nng_ev_fault(ev, SIGBUS) || nng_ev_killer(ev, SIGBUS))
        return NNG_NO;
    if (!full && !tight)
        return NNG_NO;
    say_why(v, ev, &n);
    say_size(v, ev, &n);
    nng_v_doubt(v, "the address of the fault was not seen; it would make this certain",
                "没有看到出错的地址;若能看到即可确定");
    finish(v, ev, &n);
    return full ? NNG_LIKELY : NNG_POSSIBLE;
}

/* ---- the second shape ---- */
static bool speaks_of_it(const struct nng_evidence *ev)
{
    return nng_ev_errno_in_words(ev, ENOSPC, "No space left on device") ||
           strstr(ev->tb.message, "unable to allocate shared memory") ||
           strstr(ev->tb.message, "unable to write to file </torch_") ||
           strstr(ev->tb.root_message, "No space left on device");
}

static void say_call(struct nng_verdict *v, const struct nng_failcall *f, const struct numbers *n)
{
    if (n->inodes)
        nng_v_proof(v, "%s: %s in process %d, no free file names (inodes) there",
                    "%s:%s(进程 %d),那里的文件名(inode)已用尽", nng_call_name(f->call),
                    nng_errno_name(f->err), f->pid);
    else if (n->ask > 0 && n->free >= 0)
        nng_v_proof(v, "/dev/shm has %s, %s are free, a batch needs %s (%s: %s in pid %d)",
                    "/dev/shm 共 %s,剩余 %s,一批数据需要 %s(%s:%s,pid %d)", nng_bytes(n->total),
                    nng_bytes(n->free), nng_bytes(n->ask), nng_call_name(f->call),
                    nng_errno_name(f->err), f->pid);
    else if (n->total <= 0)
        nng_v_proof(v, "%s on /dev/shm failed with %s in pid %d",
                    "/dev/shm 上的 %s 失败:%s(pid %d)", nng_call_name(f->call),
                    nng_errno_name(f->err), f->pid);
    else
        nng_v_proof(v, "/dev/shm has %s, %s are free (%s: %s in pid %d)",
                    "/dev/shm 共 %s,剩余 %s(%s:%s,pid %d)", nng_bytes(n->total), nng_bytes(n->free),
                    nng_call_name(f->call), nng_errno_name(f->err), f->pid);
    if (f->count > 1)
        nng_v_proof(v, "it has failed %llu times in that process so far",
                    "在该进程中至今已失败 %llu 次", (unsigned long long)f->count);
}

static const struct nng_failcall *on_devshm(const struct nng_evidence *ev, bool only_victim)
{
    for (int i = 0; i < ev->n_fails; i++) {
        const struct nng_failcall *f = &ev->fails[i];
        if ((f->err == ENOSPC || f->err == EDQUOT) && (f->flags & NNG_RF_DEVSHM) &&
            (!only_victim || f->pid == ev->who.pid))
            return f;
    }
    return NULL;
}

static enum nng_confidence by_call(const struct nng_evidence *ev, struct nng_verdict *v)
{
    bool sure = false;
    const struct nng_failcall *f;
    struct numbers n;
    enum nng_confidence conf = NNG_CERTAIN;

    if (ev->alive || ev->kind == NNG_K_STALL) {
        f = on_devshm(ev, false);
    } else if (nng_ev_left(ev) && ev->tb.present && speaks_of_it(ev)) {
        f = nng_ev_blamed(ev, ENOSPC, 1, &sure);
        if (!f)
            f = nng_ev_blamed(ev, EDQUOT, 1, &sure);
        if (!sure)
            conf = NNG_LIKELY;
    } else if (nng_ev_signal(ev) == SIGABRT && nng_ev_says(ev, "No space left on device")) {
        f = nng_ev_blamed(ev, ENOSPC, 1, &sure);
        if (!sure || !strstr(ev->tail, "shared memory"))
            conf = NNG_LIKELY;
    } else if (nng_ev_left(ev) && ev->status.known && ev->status.code && !ev->tb.present) {
        f = nng_ev_blamed(ev, ENOSPC, 1, &sure);
        conf = f && nng_ev_silent_exit(ev, f, ev->shm.free) ? NNG_LIKELY : NNG_POSSIBLE;
    } else {
        return NNG_NO;
    }
    if (!f)
        return NNG_NO;
    n = (struct numbers){f->total, f->free, f->asked, (f->flags & NNG_RF_INODES) != 0};
    /* Failed for a commit limit, not for room. */
    if (!n.inodes && n.free > n.ask && n.ask > 0 && commit_bound(ev))
        conf = NNG_POSSIBLE;
    say_why(v, ev, &n);
    say_call(v, f, &n);
    if (conf == NNG_POSSIBLE)
        nng_v_doubt(v, "there was room: the commit limit of the machine was reached as well",
                    "当时还有空间:整机的内存承诺上限也已达到");
    else if (conf < NNG_CERTAIN)
        nng_v_doubt(v, "the failed call was seen; that it ended the process was not",
                    "看到了失败的调用,但没有看到进程正是因它而结束");
    nng_v_exception_facts(v, ev);
    nng_v_fail_facts(v, f);
    finish(v, ev, &n);
    return conf;
}

/* Its own words only. */
static enum nng_confidence by_words(const struct nng_evidence *ev, struct nng_verdict *v)
{
    struct numbers n = {ev->shm.total, ev->shm.free, ev->shm.biggest_ask, false};
    bool named = strstr(ev->tb.message, "unable to allocate shared memory") ||
                 strstr(ev->tb.message, "unable to write to file </torch_") ||
                 strstr(nng_ev_path_in_words(ev), "/dev/shm/") != NULL;

    if (!nng_ev_left(ev) || !ev->tb.present || !named ||
        !nng_ev_errno_in_words(ev, ENOSPC, "No space left on device"))
        return NNG_NO;
    say_why(v, ev, &n);
    nng_v_proof(v, "it says: %s", "它自己的输出:%s", nng_text_short(ev->tb.message, 100));
    if (n.total > 0)
        say_size(v, ev, &n);
    nng_v_doubt(v, "the failed call itself was not recorded", "没有记录到失败的调用本身");
    nng_v_exception_facts(v, ev);
    finish(v, ev, &n);
    return NNG_LIKELY;
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    struct nng_bus b;
    enum nng_confidence c;

    if (nng_ev_bus(ev, &b))
        return by_fault(ev, &b, v);
    if ((c = blind(ev, v)) != NNG_NO || (c = by_call(ev, v)) != NNG_NO)
        return c;
    return by_words(ev, v);
}

NNG_CAUSE(shm_exhausted, 10, match);
