/* SPDX-License-Identifier: MIT
 *
 * Numbers for people and cleaning of hostile text. Whatever a worker printed passes through
 * nng_text_clean before it reaches a terminal or a file, so nothing here trusts its input: every loop
 * is bounded by the given length, the output by the given size. [any-thread], no allocation; the
 * functions that return a string without a buffer use per-thread rings.
 */
#include "text.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* ---- numbers ------------------------------------------------------------------------------- */

char *nng_text_bytes(char *buf, size_t n, int64_t bytes)
{
    static const char *const unit[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    size_t u = 0;

    if (bytes < 0) {
        snprintf(buf, n, "?");
        return buf;
    }
    if (bytes < 1024) {
        snprintf(buf, n, "%d B", (int)bytes);
        return buf;
    }
    v /= 1024;
    /* 1023.95 would be printed as 1024.0 */
    while (v >= 1023.95 && u + 1 < sizeof unit / sizeof unit[0]) {
        v /= 1024;
        u++;
    }
    snprintf(buf, n, "%.1f %s", v, unit[u]);
    return buf;
}

const char *nng_bytes(int64_t bytes)
{
    static _Thread_local char ring[16][32];
    static _Thread_local unsigned at;

    return nng_text_bytes(ring[at++ % 16], sizeof ring[0], bytes);
}

const char *nng_size_arg(int64_t bytes)
{
    static _Thread_local char ring[8][24];
    static _Thread_local unsigned at;
    char *out = ring[at++ % 8];
    int64_t mib = bytes <= 0 ? 1 : (bytes - 1) / (1024 * 1024) + 1;
    int64_t size = 64;

    /* 64m 128m 256m 512m 1g 2g 3g 4g 6g 8g 12g 16g ... */
    while (size < mib && size < (INT64_C(1) << 40)) {
        if (size >= 2048 && size + size / 2 >= mib && (size & (size - 1)) == 0) {
            size += size / 2;
            break;
        }
        size *= 2;
    }
    if (size < 1024)
        snprintf(out, sizeof ring[0], "%dm", (int)size);
    else
        snprintf(out, sizeof ring[0], "%lldg", (long long)(size / 1024));
    return out;
}

/* ---- cleaning ------------------------------------------------------------------------------ */

/* Length of the valid UTF-8 sequence at p (1..4), 0 if there is none; *cp gets the character. */
static size_t utf8(const unsigned char *p, size_t n, uint32_t *cp)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len;

    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    if (p[0] >= 0xc2 && p[0] <= 0xdf)
        len = 2;
    else if ((p[0] & 0xf0) == 0xe0)
        len = 3;
    else if (p[0] >= 0xf0 && p[0] <= 0xf4)
        len = 4;
    else
        return 0;
    if (len > n)
        return 0;
    *cp = p[0] & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        *cp = *cp << 6 | (p[i] & 0x3fu);
    }
    if (*cp < least[len] || *cp > 0x10ffff || (*cp >= 0xd800 && *cp <= 0xdfff))
        return 0;
    return len;
}

/* Characters that move the cursor, reorder or hide text. */
static bool harmful(uint32_t c)
{
    return (c < 0x20 && c != '\n' && c != '\t') || (c >= 0x7f && c <= 0x9f) || c == 0xad ||
           c == 0x61c || (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
           (c >= 0x2060 && c <= 0x206f) || c == 0xfeff || (c >= 0xfff9 && c <= 0xfffb) ||
           (c >= 0xe0000 && c <= 0xe0fff);
}

/* Bytes of the escape sequence that starts at p (p[0] is ESC). A sequence that does not end within
 * its line is not believed: only its first bytes go, so that nobody can hide the rest of a log. */
static size_t escape(const unsigned char *p, size_t n)
{
    size_t i = 1;

    if (n < 2)
        return 1;
    if (p[1] == '[') {
        for (i = 2; i < n && i < 64 && p[i] >= 0x20 && p[i] <= 0x3f; i++)
            ;
        return i < n && p[i] >= 0x40 && p[i] <= 0x7e ? i + 1 : 2;
    }
    if (p[1] == ']' || p[1] == 'P' || p[1] == 'X' || p[1] == '^' || p[1] == '_') {
        for (i = 2; i < n && i < 512 && p[i] != '\n' && p[i] != '\r'; i++) {
            if (p[i] == 0x07)
                return i + 1;
            if (p[i] == 0x1b)
                return i + 1 < n && p[i + 1] == '\\' ? i + 2 : 2;
        }
        return 2;
    }
    while (i < n && i < 4 && p[i] >= 0x20 && p[i] <= 0x2f)
        i++;
    return i < n && p[i] >= 0x30 && p[i] <= 0x7e ? i + 1 : 1;
}

static size_t clean(char *out, size_t out_size, const char *src, size_t n, bool one_line)
{
    const unsigned char *p = (const unsigned char *)src;
    size_t o = 0, line = 0;
    bool returned = false; /* a \r came; what follows on this line replaces what is there */

    if (out_size == 0)
        return 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        size_t len;

        if (p[i] == 0x1b) {
            i += escape(p + i, n - i);
            continue;
        }
        if (p[i] == '\r' && !one_line) {
            returned = true;
            i++;
            continue;
        }
        len = utf8(p + i, n - i, &cp);
        if (cp == '\n' && len == 1 && !one_line) {
            if (o + 1 >= out_size)
                break;
            out[o++] = '\n';
            line = o;
            returned = false;
            i++;
            continue;
        }
        if (returned) {
            o = line;
            returned = false;
        }
        if (one_line && len == 1 && (cp == '\n' || cp == '\t' || cp == '\r')) {
            if (o + 1 >= out_size)
                break;
            out[o++] = ' ';
        } else if (len == 0 || harmful(cp)) {
            if (o + 1 >= out_size)
                break;
            out[o++] = '?';
        } else {
            if (o + len >= out_size)
                break;
            memcpy(out + o, p + i, len);
            o += len;
        }
        i += len ? len : 1;
    }
    while (one_line && o > 0 && out[o - 1] == ' ')
        o--;
    out[o] = '\0';
    return o;
}

size_t nng_text_clean(char *out, size_t out_size, const char *src, size_t n)
{
    return clean(out, out_size, src, n, false);
}

size_t nng_text_clean_line(char *out, size_t out_size, const char *src, size_t n)
{
    return clean(out, out_size, src, n, true);
}

const char *nng_text_field(const char *field, size_t size)
{
    static _Thread_local char ring[12][384];
    static _Thread_local unsigned at;
    char *out = ring[at++ % 12];

    nng_text_clean_line(out, sizeof ring[0], field, strnlen(field, size));
    return out;
}

const char *nng_text_quoted(const char *s, size_t n)
{
    static _Thread_local char ring[4][640];
    static _Thread_local unsigned at;
    char *out = ring[at++ % 4];
    size_t k = 0;

    out[k++] = '\'';
    for (size_t i = 0; i < n && k < sizeof ring[0] - 6; i++) {
        if (s[i] == '\'') { /* close, a quote by itself, open again */
            memcpy(out + k, "'\\''", 4);
            k += 4;
        } else {
            out[k++] = s[i];
        }
    }
    out[k++] = '\'';
    out[k] = '\0';
    return out;
}

const char *nng_path_short(const char *path, size_t max)
{
    static _Thread_local char ring[8][320];
    static _Thread_local unsigned at;
    char *out = ring[at++ % 8];
    size_t len = strnlen(path, 4096);
    const char *end = path + len;
    const char *from, *slash;

    if (max > sizeof ring[0] - 1)
        max = sizeof ring[0] - 1;
    if (len <= max) {
        memcpy(out, path, len);
        out[len] = '\0';
        return out;
    }
    if (max < 8)
        max = 8;
    from = end - (max - 3);
    slash = memchr(from, '/', (size_t)(end - from));
    if (slash && slash + 1 < end)
        from = slash;
    else
        while (from < end && ((unsigned char)*from & 0xc0) == 0x80)
            from++;
    memcpy(out, "...", 3);
    memcpy(out + 3, from, (size_t)(end - from));
    out[3 + (end - from)] = '\0';
    return out;
}

const char *nng_text_short(const char *text, size_t max)
{
    static _Thread_local char ring[8][320];
    static _Thread_local unsigned at;
    char *out = ring[at++ % 8];
    size_t len = strnlen(text, 4096);

    if (max > sizeof ring[0] - 1)
        max = sizeof ring[0] - 1;
    if (len <= max) {
        memcpy(out, text, len);
        out[len] = '\0';
        return out;
    }
    len = max > 3 ? max - 3 : 0;
    while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80)
        len--;
    memcpy(out, text, len);
    memcpy(out + len, "...", 4);
    return out;
}

/* ---- names --------------------------------------------------------------------------------- */

const char *nng_signal_name(int signo)
{
    static const char *const name[] = {
        "no signal", "SIGHUP",  "SIGINT",    "SIGQUIT", "SIGILL",   "SIGTRAP", "SIGABRT", "SIGBUS",
        "SIGFPE",    "SIGKILL", "SIGUSR1",   "SIGSEGV", "SIGUSR2",  "SIGPIPE", "SIGALRM", "SIGTERM",
        "SIGSTKFLT", "SIGCHLD", "SIGCONT",   "SIGSTOP", "SIGTSTP",  "SIGTTIN", "SIGTTOU", "SIGURG",
        "SIGXCPU",   "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO",   "SIGPWR",  "SIGSYS"};
    static _Thread_local char ring[4][24];
    static _Thread_local unsigned at;
    char *out;

    if (signo >= 0 && signo < (int)(sizeof name / sizeof name[0]))
        return name[signo];
    out = ring[at++ % 4];
    /* glibc keeps 32 and 33 for itself */
    if (signo == 34)
        snprintf(out, sizeof ring[0], "SIGRTMIN");
    else if (signo > 34 && signo <= 64)
        snprintf(out, sizeof ring[0], "SIGRTMIN+%d", signo - 34);
    else
        snprintf(out, sizeof ring[0], "signal %d", signo);
    return out;
}

/* clang-format off */
#define ERRNOS(X)                                                                                  \
    X(EPERM) X(ENOENT) X(ESRCH) X(EINTR) X(EIO) X(ENXIO) X(E2BIG) X(ENOEXEC) X(EBADF) X(ECHILD)    \
    X(EAGAIN) X(ENOMEM) X(EACCES) X(EFAULT) X(EBUSY) X(EEXIST) X(EXDEV) X(ENODEV) X(ENOTDIR)       \
    X(EISDIR) X(EINVAL) X(ENFILE) X(EMFILE) X(ENOTTY) X(ETXTBSY) X(EFBIG) X(ENOSPC) X(ESPIPE)      \
    X(EROFS) X(EMLINK) X(EPIPE) X(EDOM) X(ERANGE) X(EDEADLK) X(ENAMETOOLONG) X(ENOLCK) X(ENOSYS)   \
    X(ENOTEMPTY) X(ELOOP) X(EOVERFLOW) X(EILSEQ) X(EOPNOTSUPP) X(EADDRINUSE) X(ENETDOWN)           \
    X(ENETUNREACH) X(ECONNABORTED) X(ECONNRESET) X(ENOBUFS) X(ETIMEDOUT) X(ECONNREFUSED)           \
    X(EHOSTUNREACH) X(ESTALE) X(EREMOTEIO) X(EDQUOT) X(ECANCELED) X(EHWPOISON)
/* clang-format on */

const char *nng_errno_name(int err)
{
    static _Thread_local char ring[4][24];
    static _Thread_local unsigned at;
    char *out;

    switch (err) {
    case 0:
        return "no error";
#define X(e)                                                                                       \
    case e:                                                                                        \
        return #e;
        ERRNOS(X)
#undef X
    default:
        break;
    }
    out = ring[at++ % 4];
    snprintf(out, sizeof ring[0], "errno %d", err);
    return out;
}
