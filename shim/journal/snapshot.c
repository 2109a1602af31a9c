/* SPDX-License-Identifier: MIT
 *
 * Reading a journal (contract in snapshot.h). [reap] context.
 *
 * Everything is copied out with pread and checked in the copy. pread shares the page cache with the
 * writers' mappings, so it sees what they stored; and where the mapping of a file that somebody cut
 * short would kill the reader with SIGBUS, pread merely returns less. The mapping `j` exists for
 * the futexes and atomics that the monitor itself must touch; nng_view_guard keeps even those
 * harmless.
 */
#include "snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define GRACE_NS 20000000ull /* what a live writer gets to finish a record */

struct ring_place {
    off_t ring, slots;
    uint64_t n;
};

static const struct ring_place places[] = {
    [NNG_RING_EVENTS] = {offsetof(struct nng_journal, events_ring),
                         offsetof(struct nng_journal, events), NNG_EVENTS_N},
    [NNG_RING_TRACE] = {offsetof(struct nng_journal, trace_ring),
                        offsetof(struct nng_journal, trace), NNG_TRACE_N},
    [NNG_RING_SAMPLES] = {offsetof(struct nng_journal, samples_ring),
                          offsetof(struct nng_journal, samples), NNG_SAMPLES_N},
};

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static bool read_at(int fd, void *buf, size_t n, off_t at)
{
    size_t got = 0;
    while (got < n) {
        ssize_t r = pread(fd, (char *)buf + got, n - got, at + (off_t)got);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return false;
        got += (size_t)r;
    }
    return true;
}

#define TERMINATE(array) ((array)[sizeof(array) - 1] = 0)

/* ---- opening ----------------------------------------------------------------------------------
 */

static int check_header(const struct nng_header *h, off_t size)
{
    if (h->magic != NNG_MAGIC)
        return -EPROTO;
    if (h->version != NNG_VERSION || h->header_size != sizeof(struct nng_header) ||
        h->file_size < sizeof(struct nng_journal))
        return -EPROTONOSUPPORT;
    return size < (off_t)sizeof(struct nng_journal) ? -EMSGSIZE : 0;
}

static void terminate_header(struct nng_header *h)
{
    TERMINATE(h->boot_id);
    TERMINATE(h->host);
    TERMINATE(h->run_dir);
    /* Both end with an empty entry, whatever the file says. */
    TERMINATE(h->command);
    TERMINATE(h->env);
    h->command[sizeof h->command - 2] = 0;
    h->env[sizeof h->env - 2] = 0;
}

/* A short file is told apart from a foreign one by as much of the header as there is. */
static int read_header(int fd, struct nng_header *h)
{
    struct stat st;
    if (fstat(fd, &st))
        return -errno;
    if (!S_ISREG(st.st_mode)) /* a memfd is regular, too */
        return S_ISDIR(st.st_mode) ? -EISDIR : -EPROTO;
    memset(h, 0, sizeof *h);
    if (!read_at(fd, h, sizeof *h, 0)) {
        ssize_t n = pread(fd, h, sizeof h->magic, 0);
        if (n < 0)
            return -errno;
        return n == sizeof h->magic && h->magic != NNG_MAGIC ? -EPROTO : -EMSGSIZE;
    }
    return check_header(h, st.st_size);
}

int nng_view_open(struct nng_view *v, const char *path, int fd, bool writable)
{
    memset(v, 0, sizeof *v);
    v->writable = writable;
    /* O_NONBLOCK: a FIFO of that name must not hold us. */
    v->fd = fd >= 0
                ? fd
                : open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (v->fd < 0)
        return -errno;
    int err = read_header(v->fd, &v->hdr);
    if (!err) {
        void *m = mmap(NULL, sizeof(struct nng_journal), PROT_READ | (writable ? PROT_WRITE : 0),
                       MAP_SHARED, v->fd, 0);
        if (m == MAP_FAILED)
            err = -errno;
        else
            v->j = m;
    }
    terminate_header(&v->hdr);
    if (err) {
        close(v->fd);
        v->fd = -1;
    }
    return err;
}

int nng_view_refresh(struct nng_view *v)
{
    struct nng_header h;
    int err = read_header(v->fd, &h);
    if (err)
        return err;
    terminate_header(&h);
    v->hdr = h;
    return 0;
}

/* ---- the guard: our mapping of a file that is being cut short ----------------------------------
 */

static char *guarded;
static volatile sig_atomic_t guard_struck;

/* [as-safe] Lay anonymous memory over the mapping: atomics read 0 from then on and preads come up
 * short, so that the reader ends in an orderly way. Any other SIGBUS takes its default course. */
static void on_sigbus(int signo, siginfo_t *si, void *context)
{
    (void)context;
    char *addr = si->si_addr;
    if (guarded && si->si_code > 0 && addr >= guarded &&
        addr < guarded + sizeof(struct nng_journal) &&
        mmap(guarded, sizeof(struct nng_journal), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED) {
        guard_struck = 1;
        return;
    }
    signal(signo, SIG_DFL);
    if (si->si_code <= 0)
        raise(signo); /* was sent: comes as we return; a fault strikes again by itself */
}

void nng_view_guard(const struct nng_view *v)
{
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_sigaction = on_sigbus;
    sa.sa_flags = SA_SIGINFO;
    sigemptyset(&sa.sa_mask);
    guard_struck = 0;
    guarded = (char *)v->j;
    sigaction(SIGBUS, &sa, NULL);
}

bool nng_view_gone(void)
{
    return guard_struck != 0;
}

void nng_view_close(struct nng_view *v)
{
    if (v->j) {
        if (guarded == (char *)v->j)
            guarded = NULL;
        munmap(v->j, sizeof(struct nng_journal));
    }
    if (v->fd >= 0)
        close(v->fd);
    v->j = NULL;
    v->fd = -1;
}

/* ---- rings ------------------------------------------------------------------------------------
 */

/* The ring's counter. A copy of eight bytes is not promised to be whole, and a counter that is too
 * high would make us skip records: believe a value seen twice, else the lower one (it only grows).
 */
static uint64_t ring_next(const struct nng_view *v, enum nng_ring_id ring)
{
    uint64_t a = 0, b = 0;
    if (!read_at(v->fd, &a, sizeof a, places[ring].ring) ||
        !read_at(v->fd, &b, sizeof b, places[ring].ring))
        return 0;
    return a < b ? a : b;
}

void nng_cursor_init(struct nng_cursor *c, const struct nng_view *v, enum nng_ring_id ring)
{
    memset(c, 0, sizeof *c);
    c->ring = ring;
    c->hole = UINT64_MAX;
    uint64_t next = ring_next(v, ring);
    if (next > places[ring].n)
        c->next = c->lost = next - places[ring].n;
}

enum slot { SLOT_GOOD, SLOT_PENDING, SLOT_OVERWRITTEN };

/* Copy the slot of `ticket` and say what it holds. A record that fails its check is PENDING as
 * well: it may have been copied while it was written. */
static enum slot read_slot(const struct nng_view *v, enum nng_ring_id ring, uint64_t ticket,
                           struct nng_got *out)
{
    const struct ring_place *p = &places[ring];
    off_t at = p->slots + (off_t)((ticket % p->n) * sizeof(struct nng_rec));
    if (!read_at(v->fd, &out->rec, sizeof out->rec, at))
        return SLOT_PENDING;
    uint64_t commit = atomic_load_explicit(&out->rec.commit, memory_order_relaxed);
    int32_t ahead = (int32_t)((uint32_t)(commit >> 32) - (uint32_t)(ticket + 1));
    if (commit && ahead > 0 && (uint32_t)ahead % p->n == 0)
        return SLOT_OVERWRITTEN;
    if (!commit || ahead || (uint32_t)commit != nng_rec_check(&out->rec, (uint32_t)ticket))
        return SLOT_PENDING;
    /* The check sum covers a clamped length, so a lie in it must be refused here. */
    if (out->rec.type == NNG_R_NONE || out->rec.type >= NNG_R_COUNT || out->rec.text_len > NNG_TEXT)
        return SLOT_PENDING;
    if (out->rec.call >= NNG_C_COUNT)
        out->rec.call = NNG_C_OTHER;
    if (out->rec.proc > NNG_PROCS_N)
        out->rec.proc = NNG_PROCS_N;
    memcpy(out->text, out->rec.text, out->rec.text_len);
    out->text[out->rec.text_len] = 0;
    out->ticket = ticket;
    return SLOT_GOOD;
}

/* A skipped ticket may still be committed by a writer that merely had no CPU. */
static void remember_late(struct nng_cursor *c, uint64_t ticket)
{
    if (c->n_late < NNG_LATE_N)
        c->late[c->n_late++] = ticket;
}

static bool take_late(struct nng_cursor *c, const struct nng_view *v, uint64_t next,
                      struct nng_got *out)
{
    for (unsigned i = 0; i < c->n_late;) {
        uint64_t ticket = c->late[i];
        bool over = next > ticket && next - ticket > places[c->ring].n;
        enum slot s = over ? SLOT_OVERWRITTEN : read_slot(v, c->ring, ticket, out);
        if (s == SLOT_PENDING) {
            i++;
            continue;
        }
        c->late[i] = c->late[--c->n_late];
        if (s == SLOT_GOOD) {
            c->torn--;
            return true;
        }
    }
    return false;
}

/* Has the uncommitted slot at c->next been waited for long enough? Every ticket that was given out
 * when the first hole was seen has waited as long as that one. */
static bool hole_over(struct nng_cursor *c, uint64_t next)
{
    uint64_t now = now_ns();
    if (c->hole == UINT64_MAX || c->next < c->hole || c->next >= c->hole_next) {
        c->hole = c->next;
        c->hole_since_ns = now;
        c->hole_next = next;
        return false;
    }
    return now - c->hole_since_ns >= GRACE_NS;
}

bool nng_cursor_next(struct nng_cursor *c, const struct nng_view *v, bool final,
                     struct nng_got *out)
{
    uint64_t next = ring_next(v, c->ring);
    if (next > places[c->ring].n && c->next < next - places[c->ring].n) {
        c->lost += next - places[c->ring].n - c->next;
        c->next = next - places[c->ring].n;
    }
    while (c->next < next) {
        switch (read_slot(v, c->ring, c->next, out)) {
        case SLOT_GOOD:
            c->next++;
            return true;
        case SLOT_OVERWRITTEN:
            c->lost++;
            break;
        case SLOT_PENDING:
            if (!final && !hole_over(c, next))
                return take_late(c, v, next, out);
            c->torn++;
            if (!final)
                remember_late(c, c->next);
            break;
        }
        c->next++;
    }
    return take_late(c, v, next, out);
}

/* ---- processes --------------------------------------------------------------------------------
 */

static off_t proc_at(unsigned index)
{
    return (off_t)(offsetof(struct nng_journal, procs) + index * sizeof(struct nng_proc));
}

static void sanitize_fault(struct nng_fault *f)
{
    if (atomic_load_explicit(&f->state, memory_order_relaxed) > NNG_F_DYING)
        atomic_store_explicit(&f->state, NNG_F_NONE, memory_order_relaxed);
    if (f->size_source > NNG_SZ_RECORDED)
        f->size_source = NNG_SZ_UNKNOWN;
    TERMINATE(f->map_path);
    TERMINATE(f->ip_path);
    TERMINATE(f->sender_name);
    TERMINATE(f->abort_msg);
}

bool nng_view_proc(const struct nng_view *v, unsigned index, struct nng_proc *out)
{
    if (index >= NNG_PROCS_N)
        return false;
    /* Read again where the entry got a new user while it was copied. */
    for (int tries = 0; tries < 3; tries++) {
        uint64_t generation = 0;
        if (!read_at(v->fd, out, sizeof *out, proc_at(index)) ||
            !read_at(v->fd, &generation, sizeof generation,
                     proc_at(index) + (off_t)offsetof(struct nng_proc, generation)))
            return false;
        if (generation == out->generation)
            break;
    }
    uint32_t state = atomic_load_explicit(&out->state, memory_order_relaxed);
    if (state == NNG_P_FREE || state > NNG_P_LEFT)
        return false;
    if (out->birth < NNG_B_ROOT || out->birth > NNG_B_FORK)
        out->birth = NNG_B_EXEC;
    TERMINATE(out->comm);
    TERMINATE(out->cmdline);
    sanitize_fault(&out->fault);
    for (unsigned i = 0; i < NNG_FILES_N; i++)
        TERMINATE(out->files[i].path);
    return true;
}

int nng_view_find(const struct nng_view *v, uint32_t pid)
{
    struct { /* the beginning of an entry */
        uint32_t state, pid, ppid, birth;
        uint64_t start_ticks, birth_ns, generation;
    } p;
    _Static_assert(offsetof(struct nng_proc, generation) == 32, "the beginning of an entry");
    int best = -1;
    uint64_t newest = 0;
    for (unsigned i = 0; i < NNG_PROCS_N; i++) {
        if (!read_at(v->fd, &p, sizeof p, proc_at(i)))
            break;
        if (p.state == NNG_P_FREE || p.state > NNG_P_LEFT || p.pid != pid)
            continue;
        if (best < 0 || p.generation >= newest) {
            best = (int)i;
            newest = p.generation;
        }
    }
    return best;
}

unsigned nng_proc_tail(const struct nng_proc *p, char *out)
{
    uint32_t pos = atomic_load_explicit(&p->tail_pos, memory_order_relaxed);
    /* The counter wraps at 4 GiB; the entry was cleared when it was claimed, so a byte at the
     * ring's end tells that it has been round. */
    bool full = pos >= NNG_TAIL_SIZE || p->tail[NNG_TAIL_SIZE - 1];
    uint32_t n = full ? NNG_TAIL_SIZE : pos, len = 0;
    for (uint32_t i = 0; i < n; i++) {
        char c = p->tail[(pos - n + i) % NNG_TAIL_SIZE];
        if (c) /* reserved by a writer that was killed before it wrote */
            out[len++] = c;
    }
    out[len] = 0;
    return len;
}

const char *nng_proc_file(const struct nng_proc *p, unsigned i)
{
    uint32_t pos = atomic_load_explicit(&p->files_pos, memory_order_relaxed);
    if (i >= NNG_FILES_N || i >= pos)
        return NULL;
    const char *path = p->files[(pos - 1 - i) % NNG_FILES_N].path;
    return *path ? path : NULL;
}

void nng_view_free_proc(struct nng_view *v, unsigned index, uint64_t generation)
{
    if (!v->writable || !v->j || index >= NNG_PROCS_N)
        return;
    struct nng_proc *p = &v->j->procs[index];
    uint32_t state = atomic_load_explicit(&p->state, memory_order_acquire);
    /* A new user sets CLAIMED before it changes anything, so the exchange below fails for it. */
    if ((state == NNG_P_LIVE || state == NNG_P_LEFT) && p->generation == generation)
        atomic_compare_exchange_strong_explicit(&p->state, &state, NNG_P_FREE, memory_order_release,
                                                memory_order_relaxed);
}

/* ---- names ------------------------------------------------------------------------------------
 */

const char *nng_rec_type_name(unsigned type)
{
    static const char *const names[] = {"none",
#define X(n, s, r) s,
                                        NNG_RECORD_TYPES(X)
#undef X
    };
    return type < NNG_R_COUNT ? names[type] : "?";
}

const char *nng_health_text(unsigned what)
{
    static const char *const texts[] = {
#define X(n, s) s,
        NNG_HEALTH(X)
#undef X
    };
    return what < NNG_H_COUNT ? texts[what] : "?";
}
