/* SPDX-License-Identifier: MIT
 *
 * Leaving: the record of the exit code, and the root's good-bye to the monitor, so that the closing
 * block is the very last thing on stderr. The exit handler is registered by our constructor, before
 * the program's start code registers the destructors of all libraries: so it runs after those. The
 * _exit family is hooked. A fatal signal and a signal to itself come through nng_leave_handshake.
 *
 * No wait without need (an incident, or a suspect record not yet looked at), none over 1 s.
 */
#include "signals.h"
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>

#define WAIT_NS 1000000000LL
#define SLICE_NS 50000000LL

extern int on_exit(void (*)(int, void *), void *) __attribute__((weak)); /* glibc only */
extern int __cxa_atexit(void (*)(void *), void *, void *);

static _Atomic bool said;

/* ---- the handshake -------------------------------------------------------------------------------- */
/* Or a zombie: a PID 1 that reaps nobody, common in containers, leaves a dead monitor as one for ever. A
 * program's own sandbox more likely lets it read /proc than send signals. */
static bool is_gone(int pid)
{
    char path[40], text[128], *end = path + sizeof path;
    char *p = nng_fmt_u64(nng_fmt_str(path, end, "/proc/"), end, (uint64_t)pid);
    nng_fmt_str(p, end, "/stat");
    long fd = nng_sys3(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return nng_sys2(SYS_kill, pid, 0) == -ESRCH;
    long n = nng_sys3(SYS_read, fd, text, sizeof text);
    nng_sys1(SYS_close, fd);
    while (n > 0 && text[n - 1] != ')')
        n--;
    return n > 0 && (size_t)n + 1 < sizeof text && (text[n + 1] == 'Z' || text[n + 1] == 'X');
}

bool nng_leave_monitor_follows(const struct nng_header *h)
{
    uint32_t state = atomic_load(&h->monitor_state);
    int pid = atomic_load(&h->monitor_pid);
    return (state == NNG_M_READY || state == NNG_M_STARTED) && pid > 0 && !is_gone(pid);
}

static void wait_word(_Atomic uint32_t *word, uint32_t while_it_is, int64_t left)
{
    struct timespec ts = {0, left < SLICE_NS ? left : SLICE_NS};
    nng_sys4(SYS_futex, word, FUTEX_WAIT, while_it_is, &ts);
}

static void ask_for_closing(struct nng_header *h)
{
    uint32_t none = NNG_CL_NONE;
    if (atomic_compare_exchange_strong(&h->closing, &none, NNG_CL_ASKED))
        nng_ring_bell();
}

/* True: nothing (more) to wait for. */
static bool step(struct nng_header *h, int64_t left)
{
    uint32_t seen = atomic_load(&h->suspects_seen);
    if (atomic_load(&h->closing) == NNG_CL_SPOKEN || !nng_leave_monitor_follows(h))
        return true;
    /* PID 1 takes the monitor along: it must have cleaned up, or written its report, before */
    if (atomic_load(&h->incidents) > 0 || atomic_load(&h->rescue_segments) > 0 ||
        h->flags & NNG_HF_PID1) {
        ask_for_closing(h);
        wait_word(&h->closing, NNG_CL_ASKED, left);
        return false;
    }
    if (atomic_load(&h->suspects) == seen)
        return true;
    wait_word(&h->suspects_seen, seen, left);
    return false;
}

void nng_leave_handshake(void)
{
    struct nng_journal *j = nng_journal;
    if (!j || !nng_st.on || !nng_st.root || !nng_is_self())
        return;
    int64_t end = (int64_t)nng_now() + WAIT_NS, left = WAIT_NS;
    while (!step(&j->hdr, left))
        if ((left = end - (int64_t)nng_now()) <= 0) {
            nng_health(NNG_H_CLOSE_TIMEOUT);
            return;
        }
}

/* ---- the record ----------------------------------------------------------------------------------- */
static bool nothing_to_tell(const struct nng_header *h)
{
    uint32_t state = atomic_load(&h->monitor_state);
    return state != NNG_M_READY && state != NNG_M_STARTED && !atomic_load(&h->suspects) &&
           !atomic_load(&h->incidents);
}

static void put_leave(struct nng_journal *j, int code, enum nng_call how)
{
    struct nng_proc *self = nng_self;
    struct nng_put p = {.type = NNG_R_LEAVE, .call = how, .a = code};
    if (code) {
        p.flags = NNG_RF_SUSPECT;
        if (self)
            nng_usage_fill(&self->usage);
    }
    if (self)
        atomic_store(&self->exit_code, code);
    if (nng_st.root)
        atomic_store(&j->hdr.root_code, code);
    nng_put(&p);
    if (self) /* release: the entry may be given to another process from here on */
        atomic_store_explicit(&self->state, NNG_P_LEFT, memory_order_release);
}

void nng_leave(int code, enum nng_call how)
{
    int saved = errno;
    struct nng_journal *j = nng_journal;
    if (!nng_st.on || !nng_is_self())
        return;
    nng_crash_let_finish();
    if (!j || atomic_exchange(&said, true))
        return;
    code &= 0xff;
    put_leave(j, code, how);
    nng_leave_handshake();
    if (nng_st.root && code == 0 && nothing_to_tell(&j->hdr))
        nng_start_remove_run();
    errno = saved;
}

void nng_leave_after_fork(void)
{
    atomic_store(&said, false);
}

/* ---- where a process leaves ------------------------------------------------------------------------ */
/* Another thread may be blocked inside the stream for ever: then exit() itself will wait, not we. */
static void flush(FILE *f)
{
    if (!f || ftrylockfile(f))
        return;
    fflush(f);
    funlockfile(f);
}

static void at_exit(int code, void *unused)
{
    (void)unused;
    if (!nng_st.on || !nng_is_self())
        return;
    if (nng_st.root) {
        flush(stdout);
        flush(stderr);
    }
    nng_leave(code, NNG_C_EXIT);
}

static void at_exit_without_code(void *unused)
{
    at_exit(0, unused);
}

__attribute__((noreturn)) static void end_process(int code)
{
    for (;;)
        nng_sys1(SYS_exit_group, code);
}

HOOK(void, _exit, (int code))
{
    nng_leave(code, NNG_C__EXIT);
    if (NEXT(_exit))
        NEXT(_exit)(code);
    end_process(code);
}

HOOK(void, _Exit, (int code))
{
    nng_leave(code, NNG_C__EXIT);
    if (NEXT(_Exit))
        NEXT(_Exit)(code);
    end_process(code);
}

HOOK(void, quick_exit, (int code))
{
    nng_leave(code, NNG_C__EXIT);
    if (NEXT(quick_exit))
        NEXT(quick_exit)(code);
    end_process(code);
}

void nng_leave_init(void)
{
    if (on_exit)
        on_exit(at_exit, 0);
    else
        __cxa_atexit(at_exit_without_code, 0, 0);
}
