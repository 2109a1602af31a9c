/* SPDX-License-Identifier: MIT
 *
 * The native stack of a process that waits for it in its signal handler.
 *
 * All of it happens in a child of ours that is killed when its time is over. A tracer that is gone
 * lets go of everything it held, so the crashing process is released in every path, even if a step
 * hangs in a page on a dead file server or hostile unwind tables break the unwinder. Frames appear in
 * shared memory one by one: what was found until then stays.
 *
 * Unwinding starts at the fault itself: the saved registers are looked up in the signal frame on the
 * handler's stack, so no frame of a handler has to be stepped over, and none shows up. Unwind tables
 * are read from the process' memory, not from files. Names come later, see stack_names.c.
 */
#include "read.h"
#include "stack_raw.h"

#include <ctype.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <libunwind.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 2048
#define MAPS_MAX 16384
#define MAPS_BYTES (16u << 20)
#define PAGES 128u /* power of two */
#define CONTEXT_SCAN (256u << 10)
#define FDES_MAX (1u << 24)
#define MS 1000000ULL

extern int UNW_OBJ(dwarf_search_unwind_table)(unw_addr_space_t, unw_word_t, unw_dyn_info_t *,
                                              unw_proc_info_t *, int, void *);

struct map {
    uint64_t start, end, off, ino;
    uint32_t dev;
    bool exec;
    char path[256];
};

struct page {
    uint64_t addr; /* 0: empty */
    bool good;
    unsigned char data[NNG_STACK_PAGE];
};

struct taker { /* in the child only */
    int pid, tid;
    const struct nng_fault *fault;
    struct nng_stack_raw *raw;
    uint64_t until_ns;
    int n_threads;
    int threads[THREADS_MAX];
    uint64_t reg[17]; /* by DWARF number: rax rdx rcx rbx rsi rdi rbp rsp r8-r15 rip */
    int n_maps;
    struct map *maps;
    struct page pages[PAGES];
    struct nng_probes_lines lines;
};

static bool late(const struct taker *t)
{
    return nng_probes_clock(CLOCK_MONOTONIC) > t->until_ns;
}

static void nap(unsigned us)
{
    struct timespec ts = {0, (long)us * 1000};
    nanosleep(&ts, NULL);
}

/* ---- a child that may hang -------------------------------------------------------------------- */
static int reap(pid_t child, int pidfd, uint64_t until_ns)
{
    struct pollfd p = {pidfd, POLLIN, 0};
    int status;
    for (;;) {
        pid_t got = waitpid(child, &status, WNOHANG);
        uint64_t now = nng_probes_clock(CLOCK_MONOTONIC);
        if (got == child)
            return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
        if (got < 0 && errno != EINTR)
            return -errno;
        if (now > until_ns)
            return -ETIME;
        if (pidfd >= 0)
            poll(&p, 1, (int)((until_ns - now) / MS) + 1);
        else
            nap(300);
    }
}

int nng_stack_apart(void (*work)(void *), void *arg, int limit_ms)
{
    uint64_t until = nng_probes_clock(CLOCK_MONOTONIC) + (uint64_t)limit_ms * MS;
    pid_t me = getpid(), child = fork();
    int err, pidfd;

    if (child < 0)
        return -errno;
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        /* Even a child that cannot be killed must not keep somebody's pipe open. */
        for (int fd = 0; fd < 3; fd++)
            close(fd);
        if (getppid() == me)
            work(arg);
        _exit(0);
    }
    pidfd = nng_pidfd_open(child);
    err = reap(child, pidfd, until);
    if (err == -ETIME) {
        kill(child, SIGKILL);
        /* A child that even SIGKILL does not end now is left behind rather than waited for. */
        reap(child, pidfd, nng_probes_clock(CLOCK_MONOTONIC) + 50 * MS);
    }
    if (pidfd >= 0)
        close(pidfd);
    return err;
}

/* ---- stopping --------------------------------------------------------------------------------- */
static bool seized(const struct taker *t, int tid)
{
    for (int i = 0; i < t->n_threads; i++)
        if (t->threads[i] == tid)
            return true;
    return false;
}

static int seize(struct taker *t, int tid)
{
    if (t->n_threads == THREADS_MAX)
        return -E2BIG;
    if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) < 0)
        return -errno;
    t->threads[t->n_threads++] = tid;
    return ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0 ? -errno : 0;
}

/* Threads that are born while we look are found in the next round. */
static void seize_others(struct taker *t)
{
    char path[64];
    struct dirent *e;
    bool news = true;

    snprintf(path, sizeof path, "/proc/%d/task", t->pid);
    for (int round = 0; news && round < 4; round++) {
        DIR *d = opendir(path);
        news = false;
        while (d && !late(t) && (e = readdir(d))) {
            int tid = isdigit((unsigned char)e->d_name[0]) ? atoi(e->d_name) : 0;
            if (tid > 0 && !seized(t, tid) && seize(t, tid) == 0)
                news = true;
        }
        if (d)
            closedir(d);
    }
}

static int await_stop(const struct taker *t, int tid)
{
    int status;
    for (unsigned us = 20;;) {
        pid_t got = waitpid(tid, &status, WNOHANG | __WALL);
        if (got == tid)
            return WIFSTOPPED(status) ? 0 : -ESRCH;
        if (got < 0 && errno != EINTR)
            return -errno;
        if (late(t))
            return -ETIME;
        nap(us);
        us = us < 500 ? us * 2 : us;
    }
}

/* A signal that stopped the thread instead of our interrupt was taken off its queue: hand it back.
 * PTRACE_DETACH does so for the signal it is given; the exit of a tracer would lose it. */
static void let_go(struct taker *t)
{
    siginfo_t si;
    for (int i = 0; i < t->n_threads; i++) {
        int tid = t->threads[i];
        long sig = 0;
        /* EINVAL here tells a group stop or our own interrupt from a signal on its way. */
        if (ptrace(PTRACE_GETSIGINFO, tid, NULL, &si) == 0 &&
            si.si_code >> 8 != PTRACE_EVENT_STOP && si.si_signo != SIGTRAP)
            sig = si.si_signo;
        ptrace(PTRACE_DETACH, tid, NULL, (void *)sig);
    }
}

/* ---- memory of the process -------------------------------------------------------------------- */
static const unsigned char *page_at(struct taker *t, uint64_t addr)
{
    uint64_t base = addr & ~(uint64_t)(NNG_STACK_PAGE - 1);
    struct page *p = &t->pages[(base / NNG_STACK_PAGE) & (PAGES - 1)];

    if (base == 0)
        return NULL;
    if (p->addr != base) {
        struct iovec to = {p->data, NNG_STACK_PAGE},
                     from = {(void *)(uintptr_t)base, NNG_STACK_PAGE};
        if (late(t))
            return NULL;
        p->addr = base;
        p->good = process_vm_readv(t->pid, &to, 1, &from, 1, 0) == NNG_STACK_PAGE;
    }
    return p->good ? p->data : NULL;
}

static bool read_mem(struct taker *t, uint64_t addr, void *out, size_t n)
{
    unsigned char *to = out;
    while (n) {
        size_t in = addr % NNG_STACK_PAGE, part = NNG_STACK_PAGE - in < n ? NNG_STACK_PAGE - in : n;
        const unsigned char *page = page_at(t, addr);
        if (!page)
            return false;
        memcpy(to, page + in, part);
        to += part;
        addr += part;
        n -= part;
    }
    return true;
}

/* ---- maps ------------------------------------------------------------------------------------- */
static void read_maps(struct taker *t)
{
    char path[64];
    char *line;

    snprintf(path, sizeof path, "/proc/%d/maps", t->pid);
    if (nng_probes_lines_open(&t->lines, path, MAPS_BYTES))
        return;
    while (t->n_maps < MAPS_MAX && (line = nng_probes_lines_next(&t->lines))) {
        struct map *m = &t->maps[t->n_maps];
        unsigned long long start, end, off, ino;
        unsigned major, minor;
        char perm[5];
        int at = 0;
        if (sscanf(line, "%llx-%llx %4s %llx %x:%x %llu %n", &start, &end, perm, &off, &major,
                   &minor, &ino, &at) < 7 ||
            strlen(perm) != 4)
            continue;
        bool exec = perm[2] == 'x', vdso = !strcmp(line + at, "[vdso]");
        if (!exec && !ino)
            continue;
        *m = (struct map){start, end, off, ino, major << 20 | minor, exec, ""};
        if (ino || vdso)
            snprintf(m->path, sizeof m->path, "%.255s", line + at);
        t->n_maps++;
    }
    nng_probes_lines_close(&t->lines);
}

static int map_of(const struct taker *t, uint64_t ip)
{
    int low = 0, high = t->n_maps - 1;
    while (low <= high) {
        int mid = (low + high) / 2;
        if (ip < t->maps[mid].start)
            high = mid - 1;
        else if (ip >= t->maps[mid].end)
            low = mid + 1;
        else
            return mid;
    }
    return -1;
}

/* ---- modules ---------------------------------------------------------------------------------- */
static void find_eh_table(struct taker *t, struct nng_stack_module *m, uint64_t hdr, uint64_t size)
{
    unsigned char h[12];
    uint32_t count;

    /* The one shape that linkers write: version 1, 4-byte pointers, a sorted table after 12 bytes. */
    if (size < 12 || !read_mem(t, hdr, h, sizeof h) || h[0] != 1 || (h[1] & 0x0f) != 0x0b ||
        h[2] != 0x03 || h[3] != 0x3b)
        return;
    memcpy(&count, h + 8, 4);
    if (count > (size - 12) / 8 || count > FDES_MAX)
        return;
    m->eh_hdr = hdr;
    m->eh_entries = count;
}

static bool read_headers(struct taker *t, struct nng_stack_module *m)
{
    const unsigned char *page = page_at(t, m->start);
    Elf64_Ehdr eh;
    Elf64_Phdr ph[64];
    bool load = false;

    if (!page)
        return false;
    m->hash = nng_stack_hash(page);
    memcpy(&eh, page, sizeof eh);
    if (memcmp(eh.e_ident, ELFMAG, SELFMAG) || eh.e_ident[EI_CLASS] != ELFCLASS64 ||
        eh.e_phentsize != sizeof ph[0] || eh.e_phnum > 64 || eh.e_phoff > NNG_STACK_PAGE ||
        !read_mem(t, m->start + eh.e_phoff, ph, eh.e_phnum * sizeof ph[0]))
        return false;
    for (unsigned i = 0; i < eh.e_phnum && !load; i++)
        if (ph[i].p_type == PT_LOAD) {
            m->bias =
                m->start - ((ph[i].p_vaddr - ph[i].p_offset) & ~(uint64_t)(NNG_STACK_PAGE - 1));
            load = true;
        }
    for (unsigned i = 0; i < eh.e_phnum && load; i++)
        if (ph[i].p_type == PT_GNU_EH_FRAME)
            find_eh_table(t, m, m->bias + ph[i].p_vaddr, ph[i].p_memsz);
    return load;
}

static bool same_file(const struct map *a, const struct map *b)
{
    return a->ino == b->ino && a->dev == b->dev && !strcmp(a->path, b->path);
}

/* Index of the module that holds map `at`, entered on first sight; -1 where it has no room. */
static int module_of(struct taker *t, int at)
{
    struct nng_stack_raw *raw = t->raw;
    struct nng_stack_module *m;
    int first = at;

    while (first > 0 && t->maps[first].off != 0 && same_file(&t->maps[first - 1], &t->maps[at]))
        first--;
    for (int i = 0; i < raw->n_modules; i++)
        if (raw->module[i].start == t->maps[first].start)
            return i;
    if (raw->n_modules == NNG_STACK_MODULES)
        return -1;
    m = &raw->module[raw->n_modules];
    memset(m, 0, sizeof *m);
    m->start = t->maps[first].start;
    m->end = t->maps[first].end;
    m->last = t->maps[at].end;
    for (int i = at + 1; i < t->n_maps && same_file(&t->maps[i], &t->maps[at]); i++)
        m->last = t->maps[i].end;
    m->bias = m->start - t->maps[first].off;
    snprintf(m->path, sizeof m->path, "%s", *t->maps[at].path ? t->maps[at].path : "[anonymous]");
    if (t->maps[first].off == 0 && (t->maps[first].ino || !strcmp(m->path, "[vdso]")))
        read_headers(t, m);
    return raw->n_modules++;
}

/* ---- libunwind's questions -------------------------------------------------------------------- */
static int find_proc_info(unw_addr_space_t as, unw_word_t ip, unw_proc_info_t *pi, int need,
                          void *arg)
{
    struct taker *t = arg;
    unw_dyn_info_t di;
    int at = map_of(t, ip), index;

    if (at < 0 || !t->maps[at].exec || (index = module_of(t, at)) < 0)
        return -UNW_ENOINFO;
    const struct nng_stack_module *m = &t->raw->module[index];
    if (!m->eh_entries)
        return -UNW_ENOINFO;
    memset(&di, 0, sizeof di);
    di.format = UNW_INFO_FORMAT_REMOTE_TABLE;
    di.start_ip = m->start;
    di.end_ip = m->last;
    di.u.rti.segbase = m->eh_hdr;
    di.u.rti.table_data = m->eh_hdr + 12;
    di.u.rti.table_len = m->eh_entries * 8 / sizeof(unw_word_t);
    return UNW_OBJ(dwarf_search_unwind_table)(as, ip, &di, pi, need, arg);
}

static void put_unwind_info(unw_addr_space_t as, unw_proc_info_t *pi, void *arg)
{
    (void)as, (void)pi, (void)arg; /* from libunwind's own pool; this process ends soon */
}

static int no_dyn_info(unw_addr_space_t as, unw_word_t *addr, void *arg)
{
    (void)as, (void)addr, (void)arg;
    return -UNW_ENOINFO;
}

static int access_mem(unw_addr_space_t as, unw_word_t addr, unw_word_t *val, int write, void *arg)
{
    (void)as;
    return !write && read_mem(arg, addr, val, sizeof *val) ? 0 : -UNW_EINVAL;
}

static int access_reg(unw_addr_space_t as, unw_regnum_t reg, unw_word_t *val, int write, void *arg)
{
    const struct taker *t = arg;
    (void)as;
    if (write || reg < 0 || reg > UNW_X86_64_RIP)
        return -UNW_EBADREG;
    *val = t->reg[reg];
    return 0;
}

static int access_fpreg(unw_addr_space_t as, unw_regnum_t reg, unw_fpreg_t *val, int write,
                        void *arg)
{
    (void)as, (void)reg, (void)val, (void)write, (void)arg;
    return -UNW_EBADREG;
}

static int no_resume(unw_addr_space_t as, unw_cursor_t *c, void *arg)
{
    (void)as, (void)c, (void)arg;
    return -UNW_EINVAL;
}

static int no_name(unw_addr_space_t as, unw_word_t ip, char *buf, size_t n, unw_word_t *off,
                   void *arg)
{
    (void)as, (void)ip, (void)buf, (void)n, (void)off, (void)arg;
    return -UNW_ENOINFO;
}

/* ---- registers -------------------------------------------------------------------------------- */
static void from_user(struct taker *t, const struct user_regs_struct *u)
{
    const uint64_t r[17] = {u->rax, u->rdx, u->rcx, u->rbx, u->rsi, u->rdi, u->rbp, u->rsp, u->r8,
                            u->r9,  u->r10, u->r11, u->r12, u->r13, u->r14, u->r15, u->rip};
    memcpy(t->reg, r, sizeof r);
}

static void from_context(struct taker *t, const uint64_t g[17])
{
    /* the kernel's order: r8-r15 rdi rsi rbp rbx rdx rax rcx rsp rip */
    const uint64_t r[17] = {g[13], g[12], g[14], g[11], g[9], g[8], g[10], g[15], g[0],
                            g[1],  g[2],  g[3],  g[4],  g[5], g[6], g[7],  g[16]};
    memcpy(t->reg, r, sizeof r);
}

/* The signal frame lies above the handler's stack pointer; it is told by rbp, rsp and rip at their
 * places. Without it unwinding starts with these three alone, which mostly suffices. */
static void registers_of_fault(struct taker *t, uint64_t sp)
{
    uint64_t g[17];

    if (!t->fault || !t->fault->sp)
        return;
    for (uint64_t a = sp & ~7ULL, end = sp + CONTEXT_SCAN; a < end; a += 8) {
        if (!read_mem(t, a, &g[15], 2 * sizeof g[0])) {
            a |= NNG_STACK_PAGE - 8; /* a guard page or the end of the stack: nothing here */
            if (a % NNG_STACK_PAGE == NNG_STACK_PAGE - 8 && !page_at(t, a + 8))
                break;
            continue;
        }
        if (g[15] == t->fault->sp && g[16] == t->fault->ip &&
            read_mem(t, a - 15 * sizeof g[0], g, 15 * sizeof g[0]) && g[10] == t->fault->bp) {
            from_context(t, g);
            return;
        }
    }
    memset(t->reg, 0, sizeof t->reg);
    t->reg[UNW_X86_64_RIP] = t->fault->ip;
    t->reg[UNW_X86_64_RSP] = t->fault->sp;
    t->reg[UNW_X86_64_RBP] = t->fault->bp;
}

/* ---- frames ----------------------------------------------------------------------------------- */
static bool add_frame(struct taker *t, uint64_t ip, bool exact)
{
    int n = atomic_load_explicit(&t->raw->n, memory_order_relaxed);
    int at = map_of(t, exact ? ip : ip - 1);

    if (n == NNG_STACK_FRAMES)
        return false;
    t->raw->frame[n].ip = ip;
    t->raw->frame[n].exact = exact;
    t->raw->frame[n].module = at >= 0 && t->maps[at].exec ? module_of(t, at) : -1;
    /* release: whoever sees n sees the frame; pairs with the acquire in nng_stack_take */
    atomic_store_explicit(&t->raw->n, n + 1, memory_order_release);
    return true;
}

/* A call of a wild pointer: its frame has no code to unwind by, but the caller's address has just been
 * pushed. */
static void skip_wild_call(struct taker *t)
{
    uint64_t ip = t->reg[UNW_X86_64_RIP], ret;
    int at = map_of(t, ip);

    if ((at >= 0 && t->maps[at].exec) || !read_mem(t, t->reg[UNW_X86_64_RSP], &ret, sizeof ret))
        return;
    at = map_of(t, ret - 1);
    if (at < 0 || !t->maps[at].exec)
        return;
    add_frame(t, ip, true);
    t->reg[UNW_X86_64_RIP] = ret - 1; /* looked up inside the call, as any return address is */
    t->reg[UNW_X86_64_RSP] += 8;
}

static void step(struct taker *t)
{
    unw_accessors_t acc = {find_proc_info, put_unwind_info, no_dyn_info, access_mem,
                           access_reg,     access_fpreg,    no_resume,   no_name};
    unw_addr_space_t as = unw_create_addr_space(&acc, 0);
    unw_cursor_t c;
    unw_word_t ip, sp, last_sp = 0;
    bool exact = true;

    skip_wild_call(t);
    if (!as || unw_init_remote(&c, as, t))
        return;
    unw_set_caching_policy(as, UNW_CACHE_NONE);
    if (atomic_load_explicit(&t->raw->n, memory_order_relaxed) == 0)
        add_frame(t, t->reg[UNW_X86_64_RIP], true);
    else
        add_frame(t, t->reg[UNW_X86_64_RIP] + 1, false);
    while (!late(t)) {
        bool signal_frame = unw_is_signal_frame(&c) > 0;
        if (unw_step(&c) <= 0 || unw_get_reg(&c, UNW_REG_IP, &ip) || !ip ||
            unw_get_reg(&c, UNW_REG_SP, &sp))
            return;
        exact = signal_frame;
        if (sp <= last_sp && !signal_frame && last_sp)
            return; /* a stack grows downwards: callers lie above */
        last_sp = sp;
        if (!add_frame(t, ip, exact))
            return;
    }
}

static void take(void *arg)
{
    struct taker *t = arg;
    struct user_regs_struct regs;
    int err = seize(t, t->tid);

    if (!err) {
        seize_others(t);
        err = await_stop(t, t->tid);
    }
    for (int i = 1; !err && i < t->n_threads; i++)
        await_stop(t, t->threads[i]);
    if (!err && ptrace(PTRACE_GETREGS, t->tid, NULL, &regs) < 0)
        err = -errno;
    if (!err) {
        from_user(t, &regs);
        read_maps(t);
        registers_of_fault(t, regs.rsp);
        step(t);
        if (late(t))
            err = -ETIME;
    }
    t->raw->err = err;
    let_go(t);
}

struct nng_stack_raw *nng_stack_take(int pid, int tid, const struct nng_fault *fault, int limit_ms,
                                     int *err)
{
    struct nng_stack_raw *raw =
        mmap(NULL, sizeof *raw, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    /* Mapped, not on the heap: only what the child touches costs memory, and only in the child. */
    size_t maps = MAPS_MAX * sizeof(struct map), size = sizeof(struct taker) + maps;
    struct taker *t = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    *err = -ENOMEM;
    if (raw == MAP_FAILED || t == MAP_FAILED) {
        if (raw != MAP_FAILED)
            munmap(raw, sizeof *raw);
        if (t != MAP_FAILED)
            munmap(t, size);
        return NULL;
    }
    raw->pid = pid;
    raw->err = -EIO; /* until the child says otherwise */
    t->pid = pid;
    t->tid = tid > 0 ? tid : pid;
    t->fault = fault;
    t->raw = raw;
    t->maps = (struct map *)(t + 1);
    t->until_ns = nng_probes_clock(CLOCK_MONOTONIC) + (uint64_t)limit_ms * MS;
    int apart = nng_stack_apart(take, t, limit_ms + 20);
    munmap(t, size);
    if (apart)
        raw->err = apart;
    *err = raw->err;
    return raw;
}
