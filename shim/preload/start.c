/* SPDX-License-Identifier: MIT
 *
 * The constructor: is this a process to guard, and of which run? Everything else stays untouched: a
 * shell or `ls` under an exported LD_PRELOAD pays one readlink and the binding of the hooks.
 *
 * A guarded process either joins the run named by NNGUARD_RUN, when it is of this boot, this pid
 * namespace and this user and still lives, or becomes the root of a new one. No fd stays open: the
 * journal is mapped and closed. Whatever fails, the program runs on, unguarded.
 */
#include "start.h"
#include "../journal/words.h"
#include "rescue.h"
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

/* libc's, in every version since 2.3.2; pthread_atfork itself is not a dynamic symbol. Weak, since
 * another libc may lack it, and an unresolved name would end every program that loads us. */
extern int __register_atfork(void (*)(void), void (*)(void), void (*)(void), void *)
    __attribute__((weak));

struct nng_state nng_st;
char *nng_map_base;
size_t nng_map_size;

void nng_say(const char *part, ...)
{
    if (nng_word_answer(nng_env("NNGUARD_QUIET")) == NNG_SAYS_YES)
        return;
    char line[896], *end = line + sizeof line - 1;
    char *p = nng_fmt_str(line, end, "nnguard: ");
    va_list ap;
    va_start(ap, part);
    for (const char *s = part; s; s = va_arg(ap, const char *))
        p = nng_fmt_str(p, end, s);
    va_end(ap);
    *p++ = '\n';
    nng_sys3(SYS_write, 2, line, p - line);
}

/* ---- is this a process to guard? ---------------------------------------------------------------- */
static bool wanted(void)
{
    if (getauxval(AT_SECURE))
        return false;
    if (nng_word_answer(nng_env("NNGUARD")) == NNG_SAYS_NO)
        return false;
    char exe[512];
    const char *path = exe;
    long n = nng_sys4(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", exe, sizeof exe - 1);
    if (n > 0) {
        exe[n] = 0;
    } else {
        path = (const char *)getauxval(AT_EXECFN);
        if (!path)
            return false;
    }
    const char *name = __builtin_strrchr(path, '/');
    name = name ? name + 1 : path;
    nng_st.python = nng_ids_match("python*,pypy*", name);
    const char *more = nng_env("NNGUARD_MATCH");
    return nng_st.python || (more && nng_ids_match(more, name));
}

/* ---- an entry in the journal -------------------------------------------------------------------- */
/* The entry this very process had before it exec'd, if any: its tail and files are still true. Entries
 * are first taken in order, so behind one that never was used there is none; looking further would
 * read pages that nobody needs. */
static struct nng_proc *entry_before_exec(struct nng_journal *j)
{
    for (unsigned i = 0; i < NNG_PROCS_N && nng_me.ticks; i++) {
        struct nng_proc *p = &j->procs[i];
        uint32_t state = atomic_load_explicit(&p->state, memory_order_acquire);
        if (state == NNG_P_FREE && !p->pid)
            break;
        if (state == NNG_P_LIVE && p->pid == (uint32_t)nng_me.pid && p->start_ticks == nng_me.ticks)
            return p;
    }
    return NULL;
}

static void be_born(enum nng_birth how, bool by_exec)
{
    struct nng_journal *j = nng_journal;
    struct nng_proc *p = by_exec ? entry_before_exec(j) : NULL;
    if (!p)
        p = nng_proc_claim();
    int ppid = (int)nng_sys0(SYS_getppid);
    nng_self = p;
    nng_st.proc_index = p ? (int)(p - j->procs) : -1;
    if (p) {
        p->ppid = (uint32_t)ppid;
        p->birth = how;
        p->start_ticks = nng_me.ticks;
        p->birth_ns = nng_now();
        p->python = nng_st.python;
        p->rank = nng_ids_rank();
        __builtin_memcpy(p->comm, nng_me.comm, sizeof p->comm);
        __builtin_memcpy(p->cmdline, nng_me.cmdline, sizeof p->cmdline);
    }
    nng_put(&(struct nng_put){.type = NNG_R_BIRTH,
                              .a = ppid,
                              .b = p ? p - j->procs : NNG_PROCS_N,
                              .c = how,
                              .d = (int64_t)nng_me.ticks,
                              .text = nng_me.comm});
}

void nng_start_after_fork(void)
{
    int pid = (int)nng_sys0(SYS_getpid);
    if (!nng_st.on || pid == nng_st.pid)
        return;
    int e = errno;
    nng_st.pid = pid;
    nng_st.root = false;
    atomic_store_explicit(&nng_launch_middle, 0, memory_order_relaxed); /* the parent's child */
    nng_launch_keeper = false;
    nng_journal_forked((uint32_t)pid);
    nng_ids_after_fork(pid);
    nng_fails_after_fork();
    if (nng_journal)
        be_born(NNG_B_FORK, false);
    nng_signals_after_fork();
    errno = e;
}

/* ---- joining a run ------------------------------------------------------------------------------ */
static bool same_place(const struct nng_header *h)
{
    return h->magic == NNG_MAGIC && h->version == NNG_VERSION && h->header_size == sizeof *h &&
           h->file_size == sizeof(struct nng_journal) && h->uid == nng_me.uid &&
           h->pidns == nng_me.pidns && !__builtin_memcmp(h->boot_id, nng_me.boot_id, 40);
}

/* The root's own life is asked first: our shared lock, short as it is, could get in the way of a
 * monitor that is just taking its own. */
static bool run_lives(const struct nng_header *h, int fd)
{
    uint64_t ticks = nng_ids_ticks((int)h->root_pid);
    if (ticks && ticks == h->root_start_ticks)
        return true;
    return nng_sys2(SYS_flock, fd, LOCK_SH | LOCK_NB) == -EWOULDBLOCK;
}

/* On copy-on-write file systems even an allocated page may fail to be written (SIGBUS); only
 * processes with our handler survive that, and they ask before. */
static bool may_write(int fd)
{
    struct statfs fs;
    if (nng_sys2(SYS_fstatfs, fd, &fs))
        return nng_st.python;
    unsigned long t = (unsigned long)fs.f_type & 0xffffffffUL;
    nng_journal_frail =
        t == 0x9123683e /* btrfs */ || t == 0x2fc12fc1 /* zfs */ || t == 0xca451a4e /* bcachefs */;
    return nng_st.python || !nng_journal_frail;
}

static bool use_map(int fd, struct nng_journal **out)
{
    long m = nng_sys6(SYS_mmap, 0, sizeof(struct nng_journal), PROT_READ | PROT_WRITE, MAP_SHARED,
                      fd, 0);
    if (m < 0 && m >= -4095)
        return false;
    nng_sys3(SYS_madvise, m, sizeof(struct nng_journal), MADV_RANDOM);
    *out = (struct nng_journal *)m;
    return true;
}

static bool join(const char *path)
{
    int proc = !__builtin_strncmp(path, "/proc/", 6); /* a memfd: its name is a link by nature */
    long fd = nng_sys4(SYS_openat, AT_FDCWD, path,
                       O_RDWR | O_CLOEXEC | O_NONBLOCK | (proc ? 0 : O_NOFOLLOW), 0);
    if (fd < 0)
        return false;
    struct stat st;
    struct nng_header h;
    struct nng_journal *j;
    bool ok = !nng_sys2(SYS_fstat, fd, &st) && S_ISREG(st.st_mode) && st.st_uid == nng_me.uid &&
              st.st_size == (off_t)sizeof(struct nng_journal) &&
              nng_sys4(SYS_pread64, fd, &h, sizeof h, 0) == (long)sizeof h && same_place(&h) &&
              run_lives(&h, (int)fd) && may_write((int)fd) && use_map((int)fd, &j);
    nng_sys1(SYS_close, fd);
    if (!ok)
        return false;
    nng_map_base = (char *)j;
    nng_map_size = sizeof *j;
    /* a root that exec'd itself is still the root */
    nng_st.root = h.root_pid == (uint32_t)nng_me.pid && h.root_start_ticks == nng_me.ticks;
    nng_journal_attach(j);
    be_born(nng_st.root ? NNG_B_ROOT : NNG_B_EXEC, true);
    return true;
}

/* ---- beginning a run ---------------------------------------------------------------------------- */
static void name_run(const char *path)
{
    char memfd[48], *end = memfd + sizeof memfd;
    if (!*path) {
        int monitor = nng_launch_pid(nng_journal);
        if (monitor <= 0) {
            unsetenv("NNGUARD_RUN");
            return;
        }
        char *p = nng_fmt_str(memfd, end, "/proc/");
        p = nng_fmt_u64(p, end, (uint64_t)monitor);
        nng_fmt_str(p, end, "/fd/3");
        path = memfd;
    }
    setenv("NNGUARD_RUN", path, 1);
}

/* `first`: no run is named, so this is the program that the user started, and the one to speak. */
static bool become_root(bool first)
{
    const char *path;
    struct nng_journal *j;
    int fd = nng_root_make(&path, &j, first);
    if (fd < 0)
        return false;
    if (!may_write(fd)) {
        nng_sys2(SYS_munmap, j, sizeof *j);
        nng_sys1(SYS_close, fd);
        nng_start_remove_run();
        return false;
    }
    nng_map_base = (char *)j;
    nng_map_size = sizeof *j;
    nng_st.root = true;
    nng_journal_attach(j);
    be_born(NNG_B_ROOT, false);
    if (nng_st.monitor_wanted)
        nng_launch_monitor(j, fd);
    nng_sys1(SYS_close, fd);
    name_run(path);
    return true;
}

/* A word in a setting that is none is said, once. */
static void check_settings(void)
{
    static const struct {
        const char *name, *then;
    } yes_no[] = {{"NNGUARD", "on"}, {"NNGUARD_QUIET", "not quiet"}, {"NNGUARD_MONITOR", "on"}};
    for (unsigned i = 0; i < sizeof yes_no / sizeof *yes_no; i++)
        if (nng_word_answer(nng_env(yes_no[i].name)) == NNG_SAYS_WHAT)
            nng_say(yes_no[i].name, " knows 0 and 1 (or no and yes): it is ", yes_no[i].then, NULL);
}

__attribute__((constructor)) static void start(void)
{
    int e = errno;
    nng_bind();
    if (wanted()) {
        const char *run = nng_env("NNGUARD_RUN");
        bool first = !(run && *run);
        nng_ids_init();
        nng_st.pid = nng_me.pid;
        nng_st.monitor_wanted = nng_word_answer(nng_env("NNGUARD_MONITOR")) != NNG_SAYS_NO;
        if (first)
            check_settings();
        if ((!first && join(run)) || become_root(first)) {
            if (__register_atfork)
                __register_atfork(NULL, NULL, nng_start_after_fork, NULL);
            nng_rescue_init();
            /* release: threads of earlier constructors see all of the above */
            __atomic_store_n(&nng_st.on, true, __ATOMIC_RELEASE);
            if (nng_st.python)
                nng_signals_init();
            nng_threads_init();
            nng_leave_init();
        }
    }
    errno = e;
}
