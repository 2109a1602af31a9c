/* SPDX-License-Identifier: MIT
 *
 * worker_abort: abort(): the program, the C library or the C++ runtime ended itself on purpose, and said
 * why. What it said may belong to a more specific cause, which then goes before this one.
 */
#include "crash.h"

#include <string.h>

static bool any_of(const char *line, size_t n, const char *const *words, size_t n_words)
{
    for (size_t i = 0; i < n_words; i++)
        if (memmem(line, n, words[i], strlen(words[i])))
            return true;
    return false;
}

/* The last line with one of these words. faulthandler's own ("Fatal Python error: Aborted") only tells the
 * signal again. */
static const char *last_with(const struct nng_evidence *ev, const char *const *words,
                             size_t n_words)
{
    const char *line = NULL;
    size_t len = 0;

    for (const char *p = ev->tail; *p;) {
        size_t n = strcspn(p, "\n");
        if (any_of(p, n, words, n_words) && !memmem(p, n, "error: Aborted", 14) &&
            (!memmem(p, n, "ssertion", 8) || memmem(p, n, "fail", 4))) {
            line = p;
            len = n;
        }
        p += n + (p[n] == '\n');
    }
    while (len && *line == ' ') {
        line++;
        len--;
    }
    return line ? nng_text_field(line, len) : "";
}

/* What it said: what only an abort prints first, then loose words of a last message. */
static const char *message(const struct nng_evidence *ev, const struct nng_fault *f)
{
    static const char *const marker[] = {
        "  what():",          "terminate called", "*** stack smashing",  "*** buffer overflow",
        "double free",        "free(): ",         "malloc(): ",          "malloc_consolidate(): ",
        "realloc(): ",        "munmap_chunk(): ", "corrupted size",      "corrupted double-linked",
        "corrupted unsorted", "invalid pointer",  "pure virtual method", "Fatal Python error:",
        "OMP: Error"};
    static const char *const loose[] = {"Assertion", "assertion", "CHECK failed", "Check failed",
                                        "INTERNAL ERROR"};
    const char *said = f ? NNG_FIELD(f->abort_msg) : "";

    if (said[0])
        return nng_text_short(said, 90);
    said = last_with(ev, marker, sizeof marker / sizeof marker[0]);
    if (!said[0])
        said = last_with(ev, loose, sizeof loose / sizeof loose[0]);
    return nng_text_short(said, 90);
}

static bool heap(const char *said)
{
    return strstr(said, "free()") || strstr(said, "malloc") || strstr(said, "realloc()") ||
           strstr(said, "munmap_chunk") || strstr(said, "corrupted") || strstr(said, "double free");
}

static enum nng_confidence match(const struct nng_evidence *ev, struct nng_verdict *v)
{
    const struct nng_fault *f = nng_ev_fault(ev, SIGABRT);
    const struct nng_killrec *k = nng_ev_killer(ev, SIGABRT);
    enum nng_confidence conf = NNG_LIKELY;
    const char *said;

    if (nng_ev_signal(ev) != SIGABRT || (k && k->sender != ev->who.pid))
        return NNG_NO;
    if (f && f->sender_pid >= 0 && f->sender_pid != ev->who.pid)
        return NNG_NO; /* somebody else sent it */
    said = message(ev, f);
    if (strstr(said, "stack smashing") || strstr(said, "buffer overflow"))
        nng_v_why(v, "aborted, native code wrote past the end of a buffer: %s",
                  "中止,原生代码写越界:%s", said);
    else if (heap(said))
        nng_v_why(v, "aborted, its heap was damaged by native code: %s", "中止,堆被原生代码破坏:%s",
                  said);
    else if (said[0])
        nng_v_why(v, "aborted: %s", "中止:%s", said);
    else
        nng_v_why(v, "aborted (it ended itself on purpose, without a message)",
                  "中止(主动结束自己,没有留下信息)");
    nng_v_short(v, "a process aborted (SIGABRT)%s%s", "有进程中止(SIGABRT)%s%s",
                said[0] ? ": " : "", said);
    if (f && f->sender_pid == ev->who.pid)
        conf = nng_ev_cap(ev, v, NNG_CERTAIN);
    else if (k)
        conf = ev->status.known ? NNG_CERTAIN : NNG_LIKELY;
    else
        nng_v_doubt(v, "the signal was not recorded where it came: it may have been sent",
                    "没有记录到信号到达时的情况:也可能是被发送的");
    nng_v_fact_str(v, "abort.message", said,
                   f && f->abort_msg[0] ? "__abort_msg" : "its last output");
    nng_v_crash(v, ev, f);
    return conf;
}

NNG_CAUSE(worker_abort, NNG_RANK_SHAPE, match);
