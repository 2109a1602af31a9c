/* SPDX-License-Identifier: MIT
 *
 * disk_full: a file system other than /dev/shm has no room: blocks, file names or quota. By a SIGBUS at a
 * hole of a mapped file, by ENOSPC or EDQUOT of a call, or by words alone.
 */
#include "common.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#define MUCH ((int64_t)64 << 20)

static void advise(struct nng_verdict *v, const struct nng_evidence *ev, const char *path)
{
    const char *slash = strrchr(path, '/');
    struct nng_fix *f = nng_v_fix(v, false, "see what fills it, free room or use another disk",
                                  "查看是什么占满了它,腾出空间或换一块盘");

    if (slash && slash > path && path[0] == '/')
        nng_fix_command(f, "df -h %s; df -i %s", nng_text_quoted(path, (size_t)(slash - path)),
                        nng_text_quoted(path, (size_t)(slash - path)));
    else
        nng_fix_command(f, "df -h; df -i");
    if (ev->machine.nnunet)
        nng_v_fix(v, false,
                  "then preprocess again: files written meanwhile may be cut short and fail later",
                  "之后重新预处理:期间写出的文件可能不完整,以后会出错");
    else
        nng_v_fix(v, false, "files written meanwhile may be cut short: make them anew",
                  "期间写出的文件可能不完整:请重新生成");
}

static enum nng_confidence by_fault(const struct nng_evidence *ev, const struct nng_bus *b,
                                    struct nng_verdict *v)
{
    enum nng_confidence conf;

    if (!b->file || b->devshm || b->end == NNG_END_PAST || (!b->tmpfs && !b->writable_shared))
        return NNG_NO;
    if (b->room == NNG_ROOM_NONE && b->end == NNG_END_INSIDE && b->full_for_all) {
        conf = nng_ev_cap(ev, v, NNG_CERTAIN);
    } else if (b->room == NNG_ROOM_NONE && b->end == NNG_END_INSIDE) {
        conf = NNG_LIKELY;
        nng_v_doubt(v, "%s are kept there for root", "那里为 root 保留了 %s", nng_bytes(b->bfree));
    } else if (b->room == NNG_ROOM_NONE) {
        conf = NNG_LIKELY;
        nng_v_doubt(v, "certain if the file's size were known: one cut short looks the same",
                    "若能知道该文件的大小才能确定:文件被截短时现象相同");
    } else if (b->room == NNG_ROOM_LITTLE && b->end == NNG_END_INSIDE) {
        conf = b->exact_fs ? NNG_POSSIBLE : NNG_LIKELY;
        nng_v_doubt(v, "it still showed %s free; such file systems can be full before that",
                    "它仍显示剩余 %s;此类文件系统可能提前写满", nng_bytes(b->free));
    } else {
        return NNG_NO;
    }
    nng_v_why(v, "the disk is full (%s)", "磁盘已满(%s)", b->name);
    nng_v_short(v, "the disk was full (%s)", "磁盘已满(%s)", b->name);
    nng_v_proof(v, "its file system has %s, %s are free; not /dev/shm",
                "所在文件系统共 %s,剩余 %s;不是 /dev/shm", nng_bytes(b->total), nng_bytes(b->free));
    if (b->end == NNG_END_INSIDE)
        nng_v_proof(v, "the page lies inside the file (%s), so the file was not cut short",
                    "该页位于文件范围之内(%s),因此并非文件被截短", nng_bytes(b->size));
    nng_v_signal_facts(v, ev);
    nng_v_bus_facts(v, b);
    advise(v, ev, b->path);
    return conf;
}

/* numpy's words when the C library could not write all: "8388608 requested and 4096 written". */
static bool numpy_short_write(const struct nng_evidence *ev)
{
    return strstr(ev->tb.message, "requested and") && strstr(ev->tb.message, "written");
}

static bool speaks_of_it(const struct nng_evidence *ev)
{
    return nng_ev_errno_in_words(ev, ENOSPC, "No space left on device") ||
           nng_ev_errno_in_words(ev, EDQUOT, "Disk quota exceeded") || numpy_short_write(ev) ||
           strstr(ev->tb.root_message, "No space left on device") ||
           strstr(ev->tb.root_message, "Disk quota exceeded");
}

/* There is room, yet not for this much at once: "full" would send the reader looking for what is not there. */
static bool too_large_for_it(const struct nng_failcall *f)
{
    return f->total > 0 && f->free > f->total / 20 && f->asked > f->free;
}

/* There is room and there are names, and yet: a quota of the folder, a reserve, or not a file at all. */
static bool room_for_it(const struct nng_failcall *f)
{
    return f->total > 0 && f->free > f->total / 20 && f->free > MUCH && f->asked <= f->free / 2 &&
           !(f->flags & NNG_RF_INODES);
}

/* /dev/full and other devices say ENOSPC for reasons of their own. */
static bool on_a_device(const char *path)
{
    return strncmp(path, "/dev/", 5) == 0 && strncmp(path, "/dev/shm/", 9) != 0;
}

static enum nng_confidence by_call(const struct nng_evidence *ev, struct nng_verdict *v)
{
    bool sure = false, quota, inodes;
    const struct nng_failcall *f;
    const char *path;
    enum nng_confidence conf = NNG_CERTAIN;

    f = nng_ev_blamed(ev, ENOSPC, 0, &sure);
    if (!f)
        f = nng_ev_blamed(ev, EDQUOT, 0, &sure);
    if (!f || on_a_device(f->path))
        return NNG_NO;
    if (nng_ev_left(ev) && ev->tb.present && speaks_of_it(ev)) {
        conf = sure && !(f->err == ENOSPC && room_for_it(f)) ? NNG_CERTAIN : NNG_LIKELY;
    } else if (nng_ev_left(ev) && ev->status.known && ev->status.code && !ev->tb.present) {
        conf = nng_ev_silent_exit(ev, f, -1) ? NNG_LIKELY : NNG_POSSIBLE;
    } else if (nng_ev_signal(ev) == SIGABRT && nng_ev_says(ev, "No space left on device")) {
        conf = NNG_LIKELY;
    } else {
        return NNG_NO;
    }
    path = f->path[0] ? f->path : nng_ev_path_in_words(ev);
    quota = f->err == EDQUOT;
    inodes = (f->flags & NNG_RF_INODES) != 0;
    if (quota)
        nng_v_why(v, "your disk quota is used up (%s)", "磁盘配额已用尽(%s)",
                  nng_path_short(path, 60));
    else if (!inodes && too_large_for_it(f))
        nng_v_why(v, "the disk has too little room for it (%s)", "磁盘剩余空间不足(%s)",
                  path[0] ? nng_path_short(path, 60) : nng_call_name(f->call));
    else
        nng_v_why(v, "the disk is full (%s)", "磁盘已满(%s)",
                  path[0] ? nng_path_short(path, 60) : nng_call_name(f->call));
    nng_v_short(v, "the disk was full", "磁盘已满");
    if (inodes)
        nng_v_proof(v, "no file names (inodes) are left there, though %s of %s are free",
                    "那里的文件名(inode)已用尽,尽管空间还剩 %s(共 %s)", nng_bytes(f->free),
                    nng_bytes(f->total));
    else if (too_large_for_it(f))
        nng_v_proof(v, "%s were asked for at once, %s of %s are free; not /dev/shm (%s: %s)",
                    "一次需要 %s,该文件系统剩余 %s(共 %s);不是 /dev/shm(%s:%s)",
                    nng_bytes(f->asked), nng_bytes(f->free), nng_bytes(f->total),
                    nng_call_name(f->call), nng_errno_name(f->err));
    else if (f->total > 0)
        nng_v_proof(v, "that file system has %s, %s are free; not /dev/shm (%s: %s)",
                    "该文件系统共 %s,剩余 %s;不是 /dev/shm(%s:%s)", nng_bytes(f->total),
                    nng_bytes(f->free), nng_call_name(f->call), nng_errno_name(f->err));
    else
        nng_v_proof(v, "%s failed with %s, and not on /dev/shm", "%s 失败:%s,且不在 /dev/shm 上",
                    nng_call_name(f->call), nng_errno_name(f->err));
    if (f->err == ENOSPC && room_for_it(f))
        nng_v_doubt(v, "%s of %s were free; a quota of the folder would look the same",
                    "当时还剩 %s(共 %s);目录配额用尽时现象相同", nng_bytes(f->free),
                    nng_bytes(f->total));
    else if (conf < NNG_CERTAIN)
        nng_v_doubt(v, "the failed call was seen; that it ended the process was not",
                    "看到了失败的调用,但没有看到进程正是因它而结束");
    nng_v_signal_facts(v, ev);
    nng_v_exception_facts(v, ev);
    nng_v_fail_facts(v, f);
    advise(v, ev, path);
    return nng_ev_end_cap(ev, v, f, conf);
}

static enum nng_confidence by_words(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const char *path = nng_ev_path_in_words(ev);
    bool sure = false;
    const struct nng_failcall *f = nng_ev_blamed(ev, ENOSPC, 0, &sure);
    bool shm = strstr(path, "/torch_") || strstr(path, "/dev/shm") || strstr(path, "/psm_") ||
               strstr(ev->tb.message, "shared memory") || strstr(ev->tail, "SemLock");

    if (!nng_ev_left(ev) || !ev->tb.present || shm || !speaks_of_it(ev) || on_a_device(path) ||
        (f && on_a_device(f->path)))
        return NNG_NO;
    /* "The limit of inotify watches was reached" has this errno, too. */
    if (!path[0] && (strstr(ev->tb.origin, "inotify") || strstr(ev->tb.origin, "watchdog")))
        return NNG_NO;
    if (!path[0] && ev->n_files > 0 && numpy_short_write(ev))
        path = NNG_FIELD(ev->files[0]);
    if (path[0])
        nng_v_why(v, "the disk is full (%s)", "磁盘已满(%s)", nng_path_short(path, 60));
    else
        nng_v_why(v, "the disk is full", "磁盘已满");
    nng_v_short(v, "the disk was full", "磁盘已满");
    nng_v_proof(v, "it says: %s", "它自己的输出:%s", nng_text_short(ev->tb.message, 100));
    nng_v_signal_facts(v, ev);
    nng_v_exception_facts(v, ev);
    advise(v, ev, path);
    if (numpy_short_write(ev)) {
        nng_v_doubt(v, "numpy does not say why: a size limit or a failing disk looks the same",
                    "numpy 没有说明原因:文件大小限制或磁盘故障时现象相同");
        return nng_ev_end_cap(
            ev, v, NULL, nng_ev_rlim(ev, RLIMIT_FSIZE, false) >= 0 ? NNG_POSSIBLE : NNG_LIKELY);
    }
    if (path[0]) {
        nng_v_doubt(v, "the failed call itself was not recorded", "没有记录到失败的调用本身");
        return nng_ev_end_cap(ev, v, NULL, NNG_LIKELY);
    }
    nng_v_doubt(v, "its words do not say which: a disk or /dev/shm",
                "它没有说明是磁盘还是 /dev/shm");
    if (!ev->shm.present || ev->shm.total <= 0 || ev->shm.free <= ev->shm.total / 10)
        return NNG_POSSIBLE;
    return nng_ev_end_cap(ev, v, NULL, NNG_LIKELY);
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    struct nng_bus b;
    enum nng_confidence c;

    if (nng_ev_bus(ev, &b))
        return by_fault(ev, &b, v);
    c = by_call(ev, v);
    return c != NNG_NO ? c : by_words(ev, v);
}

NNG_CAUSE(disk_full, 11, match);
