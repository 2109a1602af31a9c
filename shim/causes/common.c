/* SPDX-License-Identifier: MIT
 *
 * Reading the evidence: the questions that more than one cause asks. [reap], pure.
 */
#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* ---- who and how --------------------------------------------------------------------------- */

static bool synchronous(int s)
{
    return s == SIGBUS || s == SIGSEGV || s == SIGABRT || s == SIGFPE || s == SIGILL ||
           s == SIGSYS || s == SIGTRAP || s == SIGXCPU || s == SIGXFSZ;
}

static uint32_t fault_state(const struct nng_evidence *ev)
{
    return atomic_load_explicit(&ev->fault.state, memory_order_relaxed);
}

/* The default action was next: the process was as good as dead. */
static bool doomed(const struct nng_evidence *ev)
{
    uint32_t s = fault_state(ev);
    return ev->has_fault && synchronous(ev->fault.signo) && (s == NNG_F_HELD || s == NNG_F_DYING);
}

int nng_ev_signal(const struct nng_evidence *ev)
{
    const struct nng_status *s = &ev->status;

    if (ev->alive)
        return 0;
    if (!s->known)
        return ev->has_fault && fault_state(ev) != NNG_F_REPAIRED ? ev->fault.signo : 0;
    if ((s->signal == SIGKILL || s->signal == SIGTERM) && doomed(ev))
        return ev->fault.signo;
    /* The program's own handler of a fault called _exit. */
    if (!s->signal && ev->has_fault && ev->fault.code > 0 && synchronous(ev->fault.signo) &&
        fault_state(ev) != NNG_F_REPAIRED && ev->who.death_ns && ev->fault.time_ns &&
        ev->who.death_ns - ev->fault.time_ns < NNG_SEC && ev->who.death_ns >= ev->fault.time_ns)
        return ev->fault.signo;
    return s->signal;
}

const struct nng_fault *nng_ev_fault(const struct nng_evidence *ev, int signo)
{
    return ev->has_fault && signo && ev->fault.signo == signo && nng_ev_signal(ev) == signo &&
                   fault_state(ev) != NNG_F_REPAIRED
               ? &ev->fault
               : NULL;
}

bool nng_ev_by_kernel(const struct nng_fault *f)
{
    return f && f->code > 0;
}

enum nng_confidence nng_ev_cap(const struct nng_evidence *ev, struct nng_verdict *v,
                               enum nng_confidence want)
{
    const struct nng_status *s = &ev->status;

    if (want < NNG_CERTAIN || doomed(ev) || (s->known && !s->inferred))
        return want;
    nng_v_doubt(v, "its end was not seen, only the record it left of the signal",
                "没有看到它真正结束,只有它留下的信号记录");
    return NNG_LIKELY;
}

bool nng_ev_left(const struct nng_evidence *ev)
{
    return !ev->alive && nng_ev_signal(ev) == 0 &&
           (ev->status.known || ev->kind == NNG_K_FAILURE || ev->tb.present);
}

/* Recorded before the call, so what came after the death ended nothing. A SIGKILL strikes at once, but for
 * a process that the kernel holds; any other signal may have been handled before. */
const struct nng_killrec *nng_ev_killer(const struct nng_evidence *ev, int signo)
{
    const uint64_t within = signo == SIGKILL ? 60 * NNG_SEC : 5 * NNG_SEC;
    const struct nng_killrec *found = NULL;
    uint64_t death = ev->who.death_ns ? ev->who.death_ns : ev->time_ns;

    for (int i = 0; i < ev->n_kills; i++) {
        const struct nng_killrec *k = &ev->kills[i];
        if (k->signal != signo || (death && (k->time_ns > death || death - k->time_ns > within)))
            continue;
        /* newest first: the first SIGKILL is the one that killed, of others the last */
        if (!found || signo == SIGKILL)
            found = k;
    }
    return found;
}

bool nng_ev_at_limit(const struct nng_memscope *m)
{
    return m->fails > 0 || m->limit_hit > 0 ||
           (m->limit > 0 && m->peak >= m->limit - m->limit / 10);
}

bool nng_ev_other_limit(const struct nng_memscope *m)
{
    return m->fails == 0 && m->kills > 0 && !nng_ev_at_limit(m);
}

bool nng_ev_host_short(const struct nng_hostmem *h, int64_t victim_rss)
{
    return h->total > 0 && h->available >= 0 &&
           h->available - (victim_rss > 0 ? victim_rss : 0) < h->total / 7;
}

bool nng_ev_oom_open(const struct nng_evidence *ev)
{
    return ev->mem.present && ev->mem.kills > 0 && ev->mem.kills_fresh != 0;
}

int nng_ev_workers(const struct nng_evidence *ev)
{
    int n = ev->who.role == NNG_ROLE_WORKER ? ev->who.of : 0;

    if (n < ev->workers_at_once)
        n = ev->workers_at_once;
    if (n < ev->workers_alive)
        n = ev->workers_alive;
    if (n <= 0)
        n = ev->machine.n_proc_da;
    /* What the user asked for is the most there can be; a Pool that replaces killed ones shows more. */
    const char *asked = strstr(ev->machine.trainer, " -np ");
    if (asked && atoi(asked + 5) > 0 && atoi(asked + 5) < n)
        n = atoi(asked + 5);
    return n > 0 ? n : 1;
}

const char *nng_role_name(enum nng_role role, bool zh)
{
    switch (role) {
    case NNG_ROLE_TRAINER:
        return zh ? "训练主进程" : "the trainer";
    case NNG_ROLE_WORKER:
        return zh ? "工作进程" : "a worker";
    default:
        return zh ? "辅助进程" : "a helper";
    }
}

const char *nng_ev_victim(const struct nng_evidence *ev, bool zh)
{
    switch (ev->who.role) {
    case NNG_ROLE_TRAINER:
        return zh ? "训练主进程" : "the trainer";
    case NNG_ROLE_WORKER:
        return zh ? "这个工作进程" : "the worker";
    default:
        return zh ? "这个辅助进程" : "the helper";
    }
}

/* ---- failed calls and words ------------------------------------------------------------------ */

const struct nng_failcall *nng_ev_fail(const struct nng_evidence *ev, int err, enum nng_call call,
                                       bool only_victim)
{
    for (int i = 0; i < ev->n_fails; i++) {
        const struct nng_failcall *f = &ev->fails[i];
        if ((err == 0 || f->err == err) && (call == NNG_C_OTHER || f->call == call) &&
            (!only_victim || f->pid == ev->who.pid))
            return f;
    }
    return NULL;
}

const char *nng_ev_env(const struct nng_evidence *ev, const char *name)
{
    const char *p = ev->machine.env, *end = p + sizeof ev->machine.env;
    size_t len = strlen(name);

    while (p < end && *p) {
        size_t n = strnlen(p, (size_t)(end - p));
        if (n == (size_t)(end - p))
            return NULL;
        if (n > len && p[len] == '=' && memcmp(p, name, len) == 0)
            return p + len + 1;
        p += n + 1;
    }
    return NULL;
}

bool nng_ev_says(const struct nng_evidence *ev, const char *needle)
{
    return strstr(ev->tb.message, needle) || strstr(ev->tail, needle);
}

bool nng_ev_type_is(const struct nng_evidence *ev, const char *type)
{
    return ev->tb.present && strcmp(ev->tb.type, type) == 0;
}

const char *nng_ev_path_in_words(const struct nng_evidence *ev)
{
    static _Thread_local char path[256];
    const char *m = ev->tb.message;

    for (const char *p = m; *p; p++) {
        char close = *p == '\'' ? '\'' : *p == '"' ? '"' : *p == '<' ? '>' : 0;
        const char *end = close ? strchr(p + 1, close) : NULL;
        size_t n = end ? (size_t)(end - p - 1) : 0;
        if (n > 1 && n < sizeof path && memchr(p + 1, '/', n)) {
            memcpy(path, p + 1, n);
            path[n] = '\0';
            return path;
        }
    }
    return "";
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

bool nng_ev_errno_in_words(const struct nng_evidence *ev, int err, const char *text)
{
    char a[24], b[24], c[24];

    if (!ev->tb.present || !strstr(ev->tb.message, text))
        return false;
    snprintf(a, sizeof a, "[Errno %d]", err);
    snprintf(b, sizeof b, "(%d)", err);
    snprintf(c, sizeof c, "errno = %d", err); /* HDF5 */
    return strstr(ev->tb.message, a) || strstr(ev->tb.message, b) || strstr(ev->tb.message, c) ||
           !strchr(ev->tb.message, '(');
}

enum nng_confidence nng_ev_end_cap(const struct nng_evidence *ev, struct nng_verdict *v,
                                   const struct nng_failcall *f, enum nng_confidence want)
{
    const struct nng_traceback *tb = &ev->tb;
    bool near = f && (f->time_ns >= ev->time_ns || ev->time_ns - f->time_ns < 2 * NNG_SEC);
    bool code = !ev->status.known || ev->status.signal || ev->status.code <= 1;
    enum nng_confidence most = NNG_CERTAIN;

    if (!tb->present || tb->told || tb->background_worker)
        return want;
    if (tb->after && !(tb->own && near))
        most = tb->own || (near && code && tb->top && !tb->logged) ? NNG_LIKELY : NNG_POSSIBLE;
    else if (!code && !tb->own)
        most = NNG_LIKELY;
    if (want <= most)
        return want;
    if (tb->after)
        nng_v_doubt(v, "it went on printing after this traceback", "在该回溯之后它还有输出");
    else
        nng_v_doubt(v, "exit code %d is not that of an exception", "退出码 %d 不是异常的退出码",
                    ev->status.code);
    return most;
}

bool nng_ev_shm_name(const char *name)
{
    static const char *const kinds[] = {"torch_", "psm_", "wnsm_", "pym-", "sem.", "mp-"};

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strncmp(name, kinds[i], strlen(kinds[i])) == 0)
            return true;
    return false;
}

const struct nng_failcall *nng_ev_blamed(const struct nng_evidence *ev, int err, int devshm,
                                         bool *sure)
{
    const struct nng_failcall *newest = NULL;
    const char *named = base_name(nng_ev_path_in_words(ev));
    bool both = false;

    *sure = false;
    for (int i = 0; i < ev->n_fails; i++) {
        const struct nng_failcall *f = &ev->fails[i];
        if (f->err != err)
            continue;
        /* By name also another process' failure: a DataLoader raises its worker's error again. */
        if (named[0] && f->path[0] && strcmp(base_name(f->path), named) == 0) {
            *sure = !(ev->time_ns > f->time_ns && ev->time_ns - f->time_ns > 30 * NNG_SEC);
            return devshm < 0 || devshm == !!(f->flags & NNG_RF_DEVSHM) ? f : NULL;
        }
        if (f->pid != ev->who.pid)
            continue;
        if (newest && (newest->flags & NNG_RF_DEVSHM) != (f->flags & NNG_RF_DEVSHM) &&
            newest->time_ns - f->time_ns < 5 * NNG_SEC)
            both = true;
        if (!newest)
            newest = f;
    }
    if (!newest || (devshm >= 0 && devshm != !!(newest->flags & NNG_RF_DEVSHM)))
        return NULL;
    *sure = !both;
    if (named[0] && newest->path[0]) {
        /* Its message names another file, so the program handled this failure; only names in /dev/shm
         * are as good as one another, because all lie in the same place. */
        if (!(newest->flags & NNG_RF_DEVSHM) || !nng_ev_shm_name(named))
            return NULL;
    }
    /* ... and long before the end it is a memory, not a cause */
    if (ev->time_ns > newest->time_ns && ev->time_ns - newest->time_ns > 30 * NNG_SEC)
        *sure = false;
    return newest;
}

bool nng_ev_silent_exit(const struct nng_evidence *ev, const struct nng_failcall *f,
                        int64_t free_now)
{
    if (nng_ev_last_said(ev, "No space left on device") ||
        nng_ev_last_said(ev, "Disk quota exceeded"))
        return true;
    if (free_now < 0 || ev->time_ns > f->time_ns + NNG_SEC)
        return false;
    return free_now < 4096 || (f->asked > 0 && free_now < f->asked);
}

bool nng_ev_consequence(const struct nng_evidence *ev)
{
    static const char *const generic[] = {"background workers are no longer alive",
                                          "background worker is 6 feet under",
                                          "abort_event was set",
                                          "Abort event was set",
                                          "Background workers died",
                                          "exited unexpectedly",
                                          "Pin memory thread exited",
                                          "has no attribute 'is_alive'",
                                          "export worker died",
                                          "terminated abruptly",
                                          "executor was unexpectedly terminated",
                                          "is killed by signal"};

    if (!ev->tb.present)
        return false;
    if (strcmp(ev->tb.type, "EOFError") != 0 && nng_text_lost_peer(&ev->tb))
        return true;
    /* Its pipe to the parent ended with the parent. */
    if (ev->parent_gone && strcmp(ev->tb.type, "EOFError") == 0)
        return true;
    for (size_t i = 0; i < sizeof generic / sizeof generic[0]; i++)
        if (strstr(ev->tb.message, generic[i]))
            return true;
    return false;
}

int64_t nng_ev_rlim(const struct nng_evidence *ev, int resource, bool hard)
{
    uint64_t v;

    if (!ev->has_usage || resource < 0 || resource >= 16)
        return -2;
    v = hard ? ev->usage.rlim_hard[resource] : ev->usage.rlim_soft[resource];
    return v > INT64_MAX ? -1 : (int64_t)v;
}

/* "3.00 GiB", "123456 bytes" after `after` in text. */
static int64_t amount(const char *text, const char *after)
{
    const char *p = strstr(text, after);
    char *end;
    double v;
    static const char unit[] = "KMGTP";
    double factor = 1;

    if (!p)
        return -1;
    p += strlen(after);
    v = strtod(p, &end);
    if (end == p || !(v > 0))
        return -1;
    while (*end == ' ')
        end++;
    for (size_t i = 0; i < sizeof unit - 1; i++) {
        factor *= 1024;
        if (*end == unit[i])
            return v * factor < 9e18 ? (int64_t)(v * factor) : -1;
    }
    return v < 9e18 ? (int64_t)v : -1;
}

/* Python's own has no message, libraries speak of allocation; "replay buffer is full" is the program's. */
static bool memory_refused(const struct nng_evidence *ev)
{
    const char *m = ev->tb.message;

    return nng_ev_type_is(ev, "MemoryError") &&
           (!m[0] || strcasestr(m, "alloc") || strcasestr(m, "memory"));
}

bool nng_ev_alloc_failed(const struct nng_evidence *ev)
{
    if (memory_refused(ev) || nng_ev_type_is(ev, "_ArrayMemoryError"))
        return true;
    if (ev->tb.present && (strstr(ev->tb.message, "std::bad_alloc") ||
                           strstr(ev->tb.message, "DefaultCPUAllocator: can't allocate memory") ||
                           strstr(ev->tb.message, "DefaultCPUAllocator: not enough memory") ||
                           nng_ev_errno_in_words(ev, ENOMEM, "Cannot allocate memory")))
        return true;
    return nng_ev_signal(ev) == SIGABRT &&
           (strstr(ev->tail, "std::bad_alloc") || strstr(ev->tail, "can't allocate memory"));
}

static int64_t asked_in_words(const struct nng_evidence *ev)
{
    int64_t n = amount(ev->tb.message, "Unable to allocate ");

    if (n < 0)
        n = amount(ev->tb.message, "you tried to allocate ");
    if (n < 0 && nng_ev_signal(ev) == SIGABRT)
        n = amount(ev->tail, "you tried to allocate ");
    return n;
}

bool nng_ev_alloc_stated(const struct nng_evidence *ev)
{
    return asked_in_words(ev) >= 0;
}

int64_t nng_ev_alloc_asked(const struct nng_evidence *ev)
{
    const struct nng_failcall *f;
    int64_t n = asked_in_words(ev);

    f = nng_ev_fail(ev, ENOMEM, NNG_C_OTHER, true);
    /* An older one was a probe, or was handled. */
    if (n < 0 && f && f->asked > 0 && ev->time_ns < f->time_ns + NNG_SEC)
        n = f->asked;
    return n;
}

bool nng_ev_last_said(const struct nng_evidence *ev, const char *words)
{
    const char *end = ev->tail + strlen(ev->tail), *from, *hit;

    while (end > ev->tail && (end[-1] == '\n' || end[-1] == ' '))
        end--;
    for (from = end; from > ev->tail && from[-1] != '\n'; from--)
        ;
    hit = strstr(from, words);
    return hit && hit < end;
}

const char *nng_ev_line_with(const struct nng_evidence *ev, const char *marker)
{
    static _Thread_local char out[4][256];
    static _Thread_local unsigned at;
    const char *hit = NULL, *from, *p = ev->tail;
    char *o = out[at++ % 4];

    while ((p = strstr(p, marker)) != NULL)
        hit = p++;
    o[0] = '\0';
    if (!hit)
        return o;
    for (from = hit; from > ev->tail && from[-1] != '\n' && hit - from < 120; from--)
        ;
    while (*from == ' ')
        from++;
    nng_text_clean_line(o, sizeof out[0], from, strcspn(from, "\n"));
    return o;
}

/* ---- a bus error ------------------------------------------------------------------------------ */

static int64_t blocks(uint64_t n, uint64_t size)
{
    uint64_t r;
    if (__builtin_mul_overflow(n, size, &r) || r > INT64_MAX)
        return INT64_MAX;
    return (int64_t)r;
}

static void room(struct nng_bus *b)
{
    const struct nng_fault *f = b->f;
    int64_t left;

    b->room = NNG_ROOM_UNKNOWN;
    b->free = b->total = b->bfree = -1;
    /* A tmpfs without a limit tells 0 of 0 blocks. */
    if (!f->statfs_ok || f->fs_bsize == 0 || f->fs_blocks == 0)
        return;
    b->free = blocks(f->fs_bavail, f->fs_bsize);
    b->bfree = blocks(f->fs_bfree, f->fs_bsize);
    b->total = blocks(f->fs_blocks, f->fs_bsize);
    /* ext4 keeps up to 2 % (at most 4096 clusters) for its own metadata, from root as well; total lacks
     * its overhead. What is kept for root by default is more: 5 %. */
    b->full_for_all = b->free < b->page &&
                      (b->bfree < b->page || (f->fs_type == 0xef53 && b->bfree <= b->total / 32 &&
                                              b->bfree <= 4096 * (int64_t)b->page));
    left = f->map_end > f->addr ? (int64_t)(f->map_end - f->addr) : 0;
    if (b->free < b->page)
        b->room = NNG_ROOM_NONE;
    else if (b->free < left || b->free < b->total / 50)
        b->room = NNG_ROOM_LITTLE;
    else
        b->room = NNG_ROOM_ENOUGH;
}

bool nng_ev_bus(const struct nng_evidence *ev, struct nng_bus *b)
{
    const struct nng_fault *f = nng_ev_fault(ev, SIGBUS);
    uint64_t off;

    memset(b, 0, sizeof *b);
    if (!f || f->code != 2 /* BUS_ADRERR */)
        return false;
    b->f = f;
    b->page =
        f->fs_bsize > NNG_PAGE_MIN && f->fs_bsize <= 65536 ? (int64_t)f->fs_bsize : NNG_PAGE_MIN;
    b->path = NNG_FIELD(f->map_path);
    b->name = nng_path_short(b->path, 60);
    b->size = b->offset = -1;
    b->devshm = f->has_map && f->map_devshm;
    b->huge = (f->statfs_ok && f->fs_type == 0x958458f6) || strstr(b->path, "anon_hugepage") ||
              strstr(b->path, "/hugepages");
    b->device =
        !b->devshm && (strncmp(b->path, "/dev/", 5) == 0 || strncmp(b->path, "/SYSV", 5) == 0 ||
                       strncmp(b->path, "anon_inode", 10) == 0);
    b->file = f->has_map && f->map_ino != 0 && !b->huge && !b->device;
    b->devshm = b->devshm && b->file;
    b->tmpfs = f->statfs_ok && f->fs_type == 0x01021994;
    b->exact_fs = b->tmpfs || (f->statfs_ok && (f->fs_type == 0xef53 || f->fs_type == 0x58465342));
    b->writable_shared = f->map_shared && (f->map_prot & 2u);
    b->recorded = f->size_source == NNG_SZ_RECORDED;
    if (b->file)
        room(b);
    else
        b->room = NNG_ROOM_UNKNOWN, b->free = b->total = b->bfree = -1;
    if (!b->file || f->addr < f->map_start || f->addr >= f->map_end)
        return true;
    off = f->map_off + (f->addr - f->map_start);
    b->offset = off <= INT64_MAX ? (int64_t)off : INT64_MAX;
    if (f->size_source == NNG_SZ_UNKNOWN || f->file_size > INT64_MAX)
        return true;
    b->size = (int64_t)f->file_size;
    /* The rest of the last page can be touched without a fault. */
    b->end = (off & ~(uint64_t)(NNG_PAGE_MIN - 1)) < f->file_size ? NNG_END_INSIDE : NNG_END_PAST;
    return true;
}

/* ---- facts ------------------------------------------------------------------------------------ */

void nng_v_bus_facts(struct nng_verdict *v, const struct nng_bus *b)
{
    static const char *const source[] = {"could not be read", "fstat in the faulting process",
                                         "stat of the mapped path", "stat of map_files",
                                         "last ftruncate or fallocate of this run"};
    const struct nng_fault *f = b->f;
    const char *size = f->size_source < 5 ? source[f->size_source] : source[0];
    const char *fs = b->devshm ? "devshm" : "fs";
    char name[48];

    nng_v_fact_str(v, "fault.mapping", b->path, "/proc/self/maps in the faulting process");
    nng_v_fact_int(v, "fault.offset", b->offset, "fault address and /proc/self/maps");
    nng_v_fact_int(v, "fault.file_size", b->size, size);
    snprintf(name, sizeof name, "%s.free_bytes", fs);
    nng_v_fact_int(v, name, b->free, "statfs in the faulting process");
    snprintf(name, sizeof name, "%s.total_bytes", fs);
    nng_v_fact_int(v, name, b->total, "statfs in the faulting process");
}

void nng_v_signal_facts(struct nng_verdict *v, const struct nng_evidence *ev)
{
    int signo = nng_ev_signal(ev);
    const struct nng_fault *f = nng_ev_fault(ev, signo);

    if (signo)
        nng_v_fact_str(v, "exit.signal", nng_signal_name(signo),
                       ev->status.known ? ev->status.source : "record of the dying process");
    else if (ev->status.known)
        nng_v_fact_int(v, "exit.code", ev->status.code, ev->status.source);
    if (!f)
        return;
    char text[64];
    snprintf(text, sizeof text, "%d", f->code);
    nng_v_fact_str(v, "fault.si_code", text, "siginfo in the signal handler");
    if (f->code > 0) {
        snprintf(text, sizeof text, "0x%llx", (unsigned long long)f->addr);
        nng_v_fact_str(v, "fault.si_addr", text, "siginfo in the signal handler");
    } else {
        nng_v_fact_int(v, "fault.sender_pid", f->sender_pid, "si_pid in the signal handler");
        nng_v_fact_str(v, "fault.sender_name", NNG_FIELD(f->sender_name), "/proc at that moment");
    }
}

void nng_v_memory_facts(struct nng_verdict *v, const struct nng_evidence *ev)
{
    const struct nng_memscope *m = &ev->mem;

    if (m->present) {
        const char *kills = m->version == 1 ? "memory.oom_control" : "memory.events.local";
        nng_v_fact_str(v, "cgroup.path", m->path, "/proc/PID/cgroup");
        nng_v_fact_int(v, "cgroup.oom_kill", m->kills, kills);
        nng_v_fact_int(v, "cgroup.limit_bytes", m->limit,
                       m->version == 1 ? "memory.limit_in_bytes" : "memory.max");
        nng_v_fact_int(v, "cgroup.usage_bytes", m->usage, "cgroup");
        nng_v_fact_int(v, "cgroup.peak_bytes", m->peak, "cgroup");
        nng_v_fact_int(v, "cgroup.limit_hits", m->fails,
                       m->version == 1 ? "memory.failcnt" : "memory.events.local");
        nng_v_fact_int(v, "cgroup.sigkill_deaths", m->sigkills, "deaths of this run in it");
        nng_v_fact_int(v, "cgroup.foreign_processes", m->foreign, "cgroup.procs");
    }
    nng_v_fact_int(v, "victim.rss_bytes", ev->victim_rss > 0 ? ev->victim_rss : -1,
                   "last sample before the death");
    nng_v_fact_int(v, "run.rss_bytes", ev->run_rss > 0 ? ev->run_rss : -1, "last sample");
    nng_v_fact_int(v, "host.mem_total_bytes", ev->host.total > 0 ? ev->host.total : -1,
                   "/proc/meminfo");
    nng_v_fact_int(v, "host.mem_available_bytes", ev->host.total > 0 ? ev->host.available : -1,
                   "/proc/meminfo");
    nng_v_fact_int(v, "host.vmstat_oom_kill", ev->host.vmstat_kills, "/proc/vmstat");
    if (ev->kmsg.found)
        nng_v_fact_str(v, "kmsg.line", ev->kmsg.line, "/dev/kmsg");
    else
        nng_v_fact_str(v, "kmsg.readable", ev->kmsg.readable ? "yes" : "no", "/dev/kmsg");
}

void nng_v_exception_facts(struct nng_verdict *v, const struct nng_evidence *ev)
{
    const struct nng_traceback *tb = &ev->tb;

    if (!tb->present)
        return;
    nng_v_fact_str(v, "exception.type", tb->type, "its last output");
    nng_v_fact_str(v, "exception.message", tb->message, "its last output");
    nng_v_fact_str(v, "exception.origin", tb->origin, "its last output");
    if (tb->root_type[0])
        nng_v_fact_str(v, "exception.first_of_chain", tb->root_type, "its last output");
}

void nng_v_fail_facts(struct nng_verdict *v, const struct nng_failcall *f)
{
    bool shm = f->flags & NNG_RF_DEVSHM;

    nng_v_fact_str(v, "call.name", nng_call_name(f->call), "hook");
    nng_v_fact_str(v, "call.errno", nng_errno_name(f->err), "hook");
    nng_v_fact_int(v, "call.pid", f->pid, "hook");
    nng_v_fact_str(v, "call.path", f->path, "hook");
    nng_v_fact_int(v, "call.asked", f->asked, "hook");
    nng_v_fact_int(v, "call.count", (int64_t)(f->count & INT64_MAX), "hook");
    if (f->err == EMFILE || f->err == EAGAIN) {
        nng_v_fact_int(v, f->err == EMFILE ? "call.fds_then" : "call.threads_then", f->free,
                       "hook");
        return;
    }
    if (f->free >= 0 || f->total > 0) {
        nng_v_fact_int(v, shm ? "devshm.free_bytes" : "fs.free_bytes", f->free,
                       "statfs at the failed call");
        nng_v_fact_int(v, shm ? "devshm.total_bytes" : "fs.total_bytes", f->total,
                       "statfs at the failed call");
    }
}
