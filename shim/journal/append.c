/* SPDX-License-Identifier: MIT
 *
 * Appending to the journal: reserve a slot by fetch_add, fill it, release the commit word last.
 * Any context; no lock, no memory, errno kept. A writer may be killed or stopped between any two
 * instructions, and may be lapped by the ring meanwhile: the record is put together on the stack and
 * its check sum is taken there, so that a slot mixed from two writers fails its check instead of
 * being signed by the second.
 */
#include "append.h"
#include "raw.h"
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

struct nng_journal *nng_journal;
struct nng_proc *nng_self;
bool nng_journal_frail;

static uint32_t own_pid;
static __thread uint32_t own_tid;

static long sys0(long n)
{
    return nng_raw(n, 0, 0, 0, 0, 0, 0);
}

void nng_journal_attach(struct nng_journal *j)
{
    own_pid = (uint32_t)sys0(SYS_getpid);
    own_tid = 0;
    nng_journal = j;
}

void nng_journal_forked(uint32_t pid)
{
    own_pid = pid;
    own_tid = 0; /* only the forking thread lives on, and its id changed */
    nng_self = 0;
}

void nng_journal_detach(void)
{
    nng_journal = 0;
    nng_self = 0;
}

uint64_t nng_now(void)
{
    struct timespec ts = {0};
    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- may it be written? ----------------------------------------------------------------------- */
/* Would a write there fail? Asked of the kernel, by an atomic addition of 0: it answers EFAULT where the
 * program would get SIGBUS, and where nobody can take that: a thread that blocks it is killed at once,
 * and a vfork child whose Python has just put the signals back to their defaults dies, too. On a frail
 * journal every time; a page that is written back between question and write is not thought of. */
static bool can_write(const void *at, size_t n)
{
    const uintptr_t page = 4096, end = (uintptr_t)at + n;
    for (uintptr_t p = (uintptr_t)at & ~(uintptr_t)3; p < end; p = (p & ~(page - 1)) + page)
        if (nng_raw(SYS_futex, (long)p, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 0, 0, (long)p,
                    FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ, 0)) == -EFAULT)
            return false;
    return true;
}

void nng_ring_bell(void)
{
    struct nng_journal *j = nng_journal;
    if (!j)
        return;
    /* release: what was committed before is visible to whoever sees the new count */
    atomic_fetch_add_explicit(&j->hdr.bell, 1, memory_order_release);
    nng_raw(SYS_futex, (long)&j->hdr.bell, FUTEX_WAKE, 0x7fffffff, 0, 0, 0);
}

void nng_health(enum nng_health what)
{
    struct nng_journal *j = nng_journal;
    if (j && !(nng_journal_frail && !can_write(&j->hdr.health[what], sizeof j->hdr.health[what])))
        atomic_fetch_add_explicit(&j->hdr.health[what], 1, memory_order_relaxed);
}

/* As the SIGBUS handler would end it: nothing is recorded any more. */
bool nng_journal_fit(const void *at, size_t n)
{
    if (__builtin_expect(!nng_journal_frail, 1) || can_write(at, n))
        return true;
    nng_health(NNG_H_OWN_SIGBUS);
    nng_journal_detach();
    return false;
}

/* ---- records ---------------------------------------------------------------------------------- */
static struct nng_rec *reserve(struct nng_journal *j, enum nng_rec_type type, uint64_t *ticket)
{
    if (type >= NNG_R_SHM_OPEN && type <= NNG_R_MAP) {
        *ticket = atomic_fetch_add_explicit(&j->trace_ring.next, 1, memory_order_relaxed);
        return &j->trace[*ticket % NNG_TRACE_N];
    }
    if (type == NNG_R_SAMPLE) {
        *ticket = atomic_fetch_add_explicit(&j->samples_ring.next, 1, memory_order_relaxed);
        return &j->samples[*ticket % NNG_SAMPLES_N];
    }
    *ticket = atomic_fetch_add_explicit(&j->events_ring.next, 1, memory_order_relaxed);
    return &j->events[*ticket % NNG_EVENTS_N];
}

/* The order of the types decides the ring above; the list in format.h must not break it. */
#define RING_E 0
#define RING_T 1
#define RING_S 2
#define X(n, s, r)                                                                                 \
    _Static_assert((RING_##r == RING_T) ==                                                         \
                       (NNG_R_##n >= NNG_R_SHM_OPEN && NNG_R_##n <= NNG_R_MAP),                    \
                   "ring of " s);                                                                  \
    _Static_assert((RING_##r == RING_S) == (NNG_R_##n == NNG_R_SAMPLE), "ring of " s);
NNG_RECORD_TYPES(X)
#undef X

static void set_text(struct nng_rec *r, const char *text)
{
    size_t n = text ? __builtin_strlen(text) : 0;
    if (n > NNG_TEXT) {
        text += n - NNG_TEXT;
        n = NNG_TEXT;
        r->flags |= NNG_RF_CUT;
    }
    r->text_len = (uint16_t)n;
    /* the check sum runs over whole words */
    __builtin_memset(r->text + (n & ~(size_t)7), 0, n & 7 ? 8 : 0);
    __builtin_memcpy(r->text, text ? text : "", n);
}

static void commit(struct nng_rec *slot, const struct nng_rec *r, uint64_t ticket)
{
    const size_t head = sizeof r->commit;
    size_t body =
        offsetof(struct nng_rec, text) + (((size_t)r->text_len + 7u) & ~(size_t)7u) - head;
    uint64_t word = (ticket + 1) << 32 | nng_rec_check(r, (uint32_t)ticket);
    atomic_store_explicit(&slot->commit, 0, memory_order_relaxed);
    /* a reader that meets new content must not pair it with the old commit word */
    atomic_thread_fence(memory_order_release);
    __builtin_memcpy((char *)slot + head, (const char *)r + head, body);
    /* release: pairs with the reader's acquire of the same word */
    atomic_store_explicit(&slot->commit, word, memory_order_release);
}

static uint32_t tid_now(void)
{
    if (!own_tid)
        own_tid = (uint32_t)sys0(SYS_gettid);
    return own_tid;
}

static bool rings(const struct nng_journal *j, const struct nng_rec *r)
{
    return r->flags & NNG_RF_SUSPECT || r->type == NNG_R_BIRTH || r->type == NNG_R_HELD ||
           (r->type == NNG_R_LEAVE && r->pid == j->hdr.root_pid);
}

uint64_t nng_put(const struct nng_put *p)
{
    struct nng_journal *j = nng_journal;
    if (!j)
        return 0;
    uint64_t ticket;
    bool vfork = p->flags & NNG_RF_VFORK;
    struct nng_proc *self = nng_self;
    if ((vfork && !can_write(&j->events_ring, 3 * sizeof j->events_ring)) ||
        !nng_journal_fit(&j->events_ring, 3 * sizeof j->events_ring) ||
        !nng_journal_fit(j, sizeof j->hdr) ||
        (self && !nng_journal_fit(self, offsetof(struct nng_proc, comm))))
        return 0;
    struct nng_rec *slot = reserve(j, p->type, &ticket);
    if ((vfork && !can_write(slot, sizeof *slot)) || !nng_journal_fit(slot, sizeof *slot))
        return 0;
    struct nng_rec r;
    r.type = (uint16_t)p->type;
    r.call = (uint16_t)p->call;
    r.pid = vfork ? (uint32_t)sys0(SYS_getpid) : own_pid;
    r.tid = vfork ? r.pid : tid_now();
    r.err = p->err;
    r.time_ns = nng_now();
    r.a = p->a;
    r.b = p->b;
    r.c = p->c;
    r.d = p->d;
    r.flags = (uint16_t)p->flags;
    r.proc = self ? (uint32_t)(self - j->procs) : NNG_PROCS_N;
    set_text(&r, p->text);
    if (r.type == NNG_R_BIRTH && self) {
        /* before the commit, so that whoever reads the birth finds the entry it names */
        self->generation = ticket;
        atomic_store_explicit(&self->state, NNG_P_LIVE, memory_order_release);
    }
    commit(slot, &r, ticket);
    if (rings(j, &r)) {
        if (r.flags & NNG_RF_SUSPECT)
            atomic_fetch_add_explicit(&j->hdr.suspects, 1, memory_order_release);
        nng_ring_bell();
    }
    return ticket;
}

/* ---- processes -------------------------------------------------------------------------------- */
static bool take(struct nng_proc *p, uint32_t from)
{
    /* acquire: what the last owner or the monitor wrote comes before our clearing */
    return atomic_compare_exchange_strong_explicit(&p->state, &from, NNG_P_CLAIMED,
                                                   memory_order_acq_rel, memory_order_relaxed);
}

static struct nng_proc *oldest_left(struct nng_journal *j)
{
    struct nng_proc *best = 0;
    for (unsigned i = 0; i < NNG_PROCS_N; i++) {
        struct nng_proc *p = &j->procs[i];
        if (atomic_load_explicit(&p->state, memory_order_relaxed) == NNG_P_LEFT &&
            (!best || p->generation < best->generation))
            best = p;
    }
    return best;
}

static struct nng_proc *find_entry(struct nng_journal *j)
{
    for (unsigned i = 0; i < NNG_PROCS_N; i++) {
        struct nng_proc *p = &j->procs[i];
        if (atomic_load_explicit(&p->state, memory_order_relaxed) == NNG_P_FREE &&
            take(p, NNG_P_FREE))
            return p;
    }
    for (unsigned tries = 0; tries < 8; tries++) { /* others may be taking the same one */
        struct nng_proc *p = oldest_left(j);
        if (!p)
            return 0;
        if (take(p, NNG_P_LEFT))
            return p;
    }
    return 0;
}

struct nng_proc *nng_proc_claim(void)
{
    struct nng_journal *j = nng_journal;
    if (!j)
        return 0;
    struct nng_proc *p = find_entry(j);
    if (!p) {
        nng_health(NNG_H_NO_PROC_ENTRY);
        return 0;
    }
    if (!nng_journal_fit(p, sizeof *p))
        return 0;
    const size_t head = sizeof p->state;
    __builtin_memset((char *)p + head, 0, sizeof *p - head);
    p->pid = own_pid;
    p->rank = -1;
    atomic_store_explicit(&p->exit_code, -1, memory_order_relaxed);
    return p;
}

void nng_tail_put(const void *bytes, size_t n)
{
    struct nng_proc *p = nng_self;
    if (!p || !n || !nng_journal_fit(p, sizeof *p))
        return;
    uint32_t at = atomic_fetch_add_explicit(&p->tail_pos, (uint32_t)n, memory_order_relaxed);
    const char *from = bytes;
    if (n > NNG_TAIL_SIZE) {
        from += n - NNG_TAIL_SIZE;
        at += (uint32_t)(n - NNG_TAIL_SIZE);
        n = NNG_TAIL_SIZE;
    }
    at %= NNG_TAIL_SIZE;
    size_t first = n < NNG_TAIL_SIZE - at ? n : NNG_TAIL_SIZE - at;
    __builtin_memcpy(p->tail + at, from, first);
    __builtin_memcpy(p->tail, from + first, n - first);
}

void nng_file_put(const char *path)
{
    struct nng_proc *p = nng_self;
    if (!p || !path || !nng_journal_fit(p, sizeof *p))
        return;
    uint32_t i = atomic_fetch_add_explicit(&p->files_pos, 1, memory_order_relaxed) % NNG_FILES_N;
    struct nng_file *f = &p->files[i];
    size_t n = __builtin_strlen(path);
    if (n > NNG_PATH - 1)
        path += n - (NNG_PATH - 1), n = NNG_PATH - 1;
    f->time_ns = nng_now();
    __builtin_memcpy(f->path, path, n);
    f->path[n] = 0;
}

/* ---- sizes ------------------------------------------------------------------------------------ */
#define PROBES 8u

static unsigned size_home(uint64_t dev, uint64_t ino)
{
    uint64_t h = (dev ^ ino * 0x9e3779b97f4a7c15ULL) * 0xff51afd7ed558ccdULL;
    return (unsigned)(h >> 40) % NNG_SIZES_N;
}

static struct nng_size *size_slot(struct nng_journal *j, uint64_t dev, uint64_t ino)
{
    struct nng_size *best = 0;
    for (unsigned i = 0; i < PROBES; i++) {
        struct nng_size *s = &j->sizes[(size_home(dev, ino) + i) % NNG_SIZES_N];
        uint64_t check = atomic_load_explicit(&s->check, memory_order_relaxed);
        if (check && s->dev == dev && s->ino == ino)
            return s;
        if (!best || (best->time_ns && (!check || s->time_ns < best->time_ns)))
            best = s;
    }
    return best;
}

void nng_size_put(uint64_t dev, uint64_t ino, uint64_t size)
{
    struct nng_journal *j = nng_journal;
    if (!j)
        return;
    struct nng_size *s = size_slot(j, dev, ino);
    if (!nng_journal_fit(s, sizeof *s))
        return;
    atomic_store_explicit(&s->check, 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_release); /* as in commit() */
    s->dev = dev;
    s->ino = ino;
    s->size = size;
    s->time_ns = nng_now();
    s->pid = own_pid;
    atomic_store_explicit(&s->check, nng_size_check(dev, ino, size, own_pid), memory_order_release);
}

bool nng_size_get(uint64_t dev, uint64_t ino, uint64_t *size)
{
    struct nng_journal *j = nng_journal;
    if (!j)
        return false;
    for (unsigned i = 0; i < PROBES; i++) {
        struct nng_size *s = &j->sizes[(size_home(dev, ino) + i) % NNG_SIZES_N];
        uint64_t check = atomic_load_explicit(&s->check, memory_order_acquire);
        uint64_t sz = s->size;
        uint32_t pid = s->pid;
        if (check && s->dev == dev && s->ino == ino && nng_size_check(dev, ino, sz, pid) == check) {
            *size = sz;
            return true;
        }
    }
    return false;
}
