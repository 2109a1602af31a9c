/* SPDX-License-Identifier: MIT
 *
 * Python tracebacks in what a process printed. The text is a ring's content: it may begin anywhere, be
 * interleaved with other threads' lines, carry prefixes ("[rank0]: ", exception groups' "  | "). One
 * pass over the lines, no allocation. The last traceback wins, because it is what ended the process.
 */
#include "evidence.h"
#include "text.h"

#include <ctype.h>
#include <string.h>

struct line {
    const char *s;
    size_t n;
    size_t indent; /* spaces before the text, prefixes taken off */
};

enum state { OUTSIDE, FRAMES, DONE };

struct parser {
    enum state state;
    bool weak;    /* the exception line may be noise: a better one replaces it */
    bool chained; /* a chain marker was the last thing seen */
    size_t base;  /* indent of the header */
    unsigned noise;
    struct nng_traceback *tb;
    struct nng_traceback before; /* complete one before the one being read */
    bool user_frame;
    bool quoted;    /* the one being read is another process' (torch: "Original Traceback ...") */
    unsigned extra; /* lines behind it that are not part of it */
    bool own_frame; /* the outermost frame is multiprocessing's */
};

static void copy(char *out, size_t size, const char *s, size_t n)
{
    if (n >= size)
        n = size - 1;
    memcpy(out, s, n);
    /* Not inside a character. */
    while (n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80 && ((unsigned char)out[n - 1] & 0x80))
        n--;
    out[n] = '\0';
}

static const char *find(const struct line *l, const char *needle)
{
    return memmem(l->s, l->n, needle, strlen(needle));
}

static bool starts(const char *s, size_t n, const char *with)
{
    size_t len = strlen(with);
    return n >= len && memcmp(s, with, len) == 0;
}

/* Take prefixes off and count the indentation. */
static void normalise(struct line *l)
{
    const char *p;

    if (starts(l->s, l->n, "[rank") && (p = memchr(l->s, ']', l->n)) && p - l->s < 12 &&
        (size_t)(p - l->s) + 2 < l->n && p[1] == ':') {
        size_t skip = (size_t)(p - l->s) + 2 + (p[2] == ' ');
        l->s += skip;
        l->n -= skip;
    }
    for (l->indent = 0; l->indent < l->n && l->s[l->indent] == ' '; l->indent++)
        ;
    /* exception groups: "  | text", "  + Exception Group Traceback ..." at any depth */
    if (l->indent >= 2 && l->indent + 2 < l->n &&
        (l->s[l->indent] == '|' || l->s[l->indent] == '+') && l->s[l->indent + 1] == ' ') {
        l->s += l->indent + 2;
        l->n -= l->indent + 2;
        for (l->indent = 0; l->indent < l->n && l->s[l->indent] == ' '; l->indent++)
            ;
    }
    while (l->n > 0 && (l->s[l->n - 1] == ' ' || l->s[l->n - 1] == '\t'))
        l->n--;
}

static bool library(const char *path)
{
    return strstr(path, "/site-packages/") || strstr(path, "/dist-packages/") ||
           strstr(path, "/lib/python3") || strstr(path, "\\lib\\") || path[0] == '<';
}

/* `  File "x.py", line 12, in f`, or without the end for a SyntaxError. faulthandler writes
 * `line 12 in f`, which is no frame of a traceback. */
static bool frame(struct parser *ps, const struct line *l)
{
    const char *s = l->s + l->indent, *end = l->s + l->n, *quote, *p;
    struct nng_traceback *tb = ps->tb;
    char file[sizeof tb->file], func[sizeof tb->func];
    int line = 0;

    if (!starts(s, (size_t)(end - s), "File \""))
        return false;
    s += 6;
    quote = memmem(s, (size_t)(end - s), "\", line ", 8);
    if (!quote)
        return false;
    for (p = quote + 8; p < end && isdigit((unsigned char)*p) && line < 100000000; p++)
        line = line * 10 + (*p - '0');
    if (p == quote + 8 || (p < end && !starts(p, (size_t)(end - p), ", in ")))
        return false;
    copy(file, sizeof file, s, (size_t)(quote - s));
    func[0] = '\0';
    if (p < end)
        copy(func, sizeof func, p + 5, (size_t)(end - p - 5));
    if (!tb->origin[0] && !ps->quoted) {
        /* multiprocessing runs everything under this one (Lib/multiprocessing/process.py). */
        ps->own_frame = strstr(file, "/process.py") && strcmp(func, "_bootstrap") == 0;
        tb->top = strcmp(func, "<module>") == 0 || strstr(file, "runpy");
    }
    if (!library(file) || !ps->user_frame) {
        memcpy(tb->file, file, sizeof file);
        memcpy(tb->func, func, sizeof func);
        tb->line = line;
        ps->user_frame = ps->user_frame || !library(file);
    }
    {
        char number[16];
        size_t n = 0, k = 0;
        for (int v = line; v > 0 || n == 0; v /= 10)
            number[n++] = (char)('0' + v % 10);
        copy(tb->origin, sizeof tb->origin - 90, file, strlen(file));
        k = strlen(tb->origin);
        tb->origin[k++] = ':';
        while (n > 0)
            tb->origin[k++] = number[--n];
        tb->origin[k] = '\0';
        if (func[0]) {
            tb->origin[k++] = ' ';
            copy(tb->origin + k, sizeof tb->origin - k, func, strlen(func));
        }
    }
    return true;
}

/* 2: surely an exception line, 1: may be one, 0: not. *colon gets the length of the name. */
static int exception_line(const struct line *l, size_t *name_len)
{
    static const char *const ends[] = {"Error",   "Exception", "Interrupt", "Exit",
                                       "Warning", "Iteration", "Group",     "error",
                                       "Timeout", "Failed",    "Expired",   "Exceeded",
                                       "Missing", "Abort",     "BadZipFile"};
    static const char *const noise[] = {"WARNING",  "INFO",  "ERROR",   "DEBUG",
                                        "CRITICAL", "NOTE",  "Epoch",   "Using",
                                        "Process",  "Fatal", "Current", "Thread"};
    const char *s = l->s + l->indent;
    size_t n = l->n - l->indent, i = 0, last = 0;

    while (i < n && (isalnum((unsigned char)s[i]) || s[i] == '_' || s[i] == '.' || s[i] == '<' ||
                     s[i] == '>')) {
        if (s[i] == '.')
            last = i + 1;
        i++;
    }
    if (i == 0 || i - last < 2 || i >= 120 || isdigit((unsigned char)s[0]))
        return 0;
    if (i < n && !(s[i] == ':' && (i + 1 == n || s[i + 1] == ' ')) && s[i] != ' ')
        return 0;
    /* "ExceptionGroup: x (2 sub-exceptions)" fits; "name word" does not */
    if (i < n && s[i] == ' ')
        return 0;
    *name_len = i;
    for (size_t k = 0; k < sizeof noise / sizeof noise[0]; k++)
        if (i == strlen(noise[k]) && memcmp(s, noise[k], i) == 0)
            return 0;
    for (size_t k = 0; k < sizeof ends / sizeof ends[0]; k++) {
        size_t len = strlen(ends[k]);
        if (i - last >= len && memcmp(s + i - len, ends[k], len) == 0)
            return last > 0 || isupper((unsigned char)s[0]) || s[0] == '_' ? 2 : 0;
    }
    return isupper((unsigned char)s[last]) ? 1 : 0;
}

/* "2026-01-01 ERROR cache: could not write it" */
static bool of_a_logger(const struct line *l)
{
    static const char *const level[] = {"ERROR", "WARN", "CRITICAL", "EXCEPTION"};

    for (size_t i = 0; i < sizeof level / sizeof level[0]; i++)
        if (find(l, level[i]))
            return true;
    return false;
}

static void begin(struct parser *ps, size_t indent, bool chained, bool quoted)
{
    struct nng_traceback *tb = ps->tb;
    bool top = quoted && tb->top;

    if (tb->present && tb->complete)
        ps->before = *tb;
    memset(tb, 0, sizeof *tb);
    tb->present = true;
    tb->top = top;
    if (chained && ps->before.present) {
        const struct nng_traceback *b = &ps->before;
        bool deeper = b->root_type[0] != '\0';
        copy(tb->root_type, sizeof tb->root_type, deeper ? b->root_type : b->type,
             strlen(deeper ? b->root_type : b->type));
        copy(tb->root_message, sizeof tb->root_message, deeper ? b->root_message : b->message,
             strlen(deeper ? b->root_message : b->message));
    }
    ps->state = FRAMES;
    ps->base = indent;
    ps->noise = 0;
    ps->weak = false;
    ps->chained = false;
    ps->user_frame = false;
    ps->own_frame = quoted && ps->own_frame;
    ps->quoted = quoted;
    ps->extra = 0;
}

static void conclude(struct parser *ps, const struct line *l, size_t name_len, bool weak)
{
    struct nng_traceback *tb = ps->tb;
    const char *s = l->s + l->indent;
    size_t n = l->n - l->indent, from = name_len;
    const char *dot = memrchr(s, '.', name_len);
    size_t skip = dot ? (size_t)(dot + 1 - s) : 0;

    copy(tb->type, sizeof tb->type, s + skip, name_len - skip);
    if (from < n && s[from] == ':')
        from++;
    while (from < n && s[from] == ' ')
        from++;
    copy(tb->message, sizeof tb->message, s + from, n - from);
    tb->complete = true;
    tb->keyboard = strcmp(tb->type, "KeyboardInterrupt") == 0;
    tb->last = true;
    ps->state = DONE;
    ps->weak = weak;
    ps->noise = ps->extra = 0;
}

/* Frames, source lines, carets, then the exception at the header's own indentation. */
static void in_frames(struct parser *ps, const struct line *l)
{
    size_t name = 0;
    int sure;

    if (frame(ps, l) || l->n == l->indent)
        return;
    if (l->indent > ps->base)
        return;
    sure = exception_line(l, &name);
    if (sure && (ps->tb->origin[0] || sure == 2))
        conclude(ps, l, name, sure == 1);
    else if (++ps->noise > 40)
        ps->state = DONE;
}

/* What Python, C++ and the C library add to an exception, or say as they leave. */
static bool belongs_to_the_end(const struct line *l)
{
    static const char *const start[] = {"frame #",
                                        "Exception raised from",
                                        "warnings.warn(",
                                        "sys:1: ",
                                        "<sys>:0: ",
                                        "[W",
                                        "/",
                                        "Sentry is ",
                                        "\"\"\""};
    const char *s = l->s + l->indent;
    size_t n = l->n - l->indent;

    for (size_t i = 0; i < sizeof start / sizeof start[0]; i++)
        if (starts(s, n, start[i]) && (start[i][0] != '/' || find(l, "Warning: ")))
            return true;
    return find(l, "resource_tracker") || find(l, "wandb: ");
}

static void after(struct parser *ps, const struct line *l)
{
    struct nng_traceback *tb = ps->tb;
    size_t name = 0;

    if (l->n == l->indent)
        return;
    if (find(l, "During handling of the above exception") ||
        find(l, "The above exception was the direct cause")) {
        ps->chained = true;
        return;
    }
    ps->noise++;
    if (!belongs_to_the_end(l))
        ps->extra++;
    if (tb->complete && ps->weak && ps->noise < 6) {
        if (l->indent > ps->base && frame(ps, l)) { /* it was noise in the middle */
            ps->state = FRAMES;
            tb->complete = tb->last = false;
            return;
        }
        if (l->indent <= ps->base && exception_line(l, &name) == 2) {
            conclude(ps, l, name, false);
            return;
        }
    }
    /* A message of several lines: the first one that says something. */
    if (tb->complete && !tb->message[0] && ps->noise == 1) {
        ps->extra = 0;
        copy(tb->message, sizeof tb->message, l->s + l->indent, l->n - l->indent);
    }
    if (ps->noise > 12)
        tb->last = false;
}

void nng_text_traceback(const char *text, struct nng_traceback *tb)
{
    struct parser ps;
    struct nng_traceback *t = tb;

    memset(tb, 0, sizeof *tb);
    memset(&ps, 0, sizeof ps);
    ps.tb = t;
    bool below_header = false, own = false, logged = false, caught = false, ignored = false,
         skipping = false;
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, "\n");
        struct line l = {p, n, 0};
        const char *head;

        normalise(&l);
        head = find(&l, "Traceback (most recent call last)");
        /* "Exception ignored in: ..." (a __del__, a callback) and what follows it end nobody: pass over all of
         * it, to the line of its exception. */
        if (starts(l.s + l.indent, l.n - l.indent, "Exception ignored ")) {
            ignored = true;
        } else if (ignored && head) {
            ignored = false;
            skipping = true;
        } else if (skipping) {
            skipping = l.indent > 0 || l.n == 0;
        } else if (head) {
            size_t indent = l.indent < (size_t)(head - l.s) ? l.indent : (size_t)(head - l.s);
            bool original = head - l.s >= 9 && memcmp(head - 9, "Original ", 9) == 0;
            /* What ended the process is told in full; a later one is part of its message, or another's. */
            if (own && !ps.chained && !original && tb->complete)
                break;
            own = own || below_header;
            bool chain = ps.chained || original;
            begin(&ps, indent, chain, original);
            caught = chain ? caught : logged;
        } else if (ps.state == FRAMES) {
            in_frames(&ps, &l);
        } else if (ps.state == OUTSIDE) {
            /* The header may have been lost: the ring begins in the middle of a traceback. */
            if (l.indent == 2 && starts(l.s + 2, l.n - 2, "File \"") && find(&l, ", in ")) {
                begin(&ps, 0, false, false);
                in_frames(&ps, &l);
            }
        } else {
            after(&ps, &l);
        }
        logged = of_a_logger(&l);
        below_header = l.n > 9 && starts(l.s, l.n, "Process ") && l.s[l.n - 1] == ':';
        p += n + (p[n] == '\n');
    }
    tb->own = own && tb->present && ps.own_frame;
    tb->logged = caught && tb->present;
    tb->after = tb->present ? (int)ps.extra : 0;
    /* The header alone, cut off before its exception: a complete one before it says more. */
    if (tb->present && !tb->complete && ps.before.present && !tb->origin[0])
        *tb = ps.before;
    /* batchgenerators prints this to stdout, whose buffer may be written before or after stderr. */
    tb->background_worker = strstr(text, "Exception in background worker") != NULL;
}

static bool one_of(const char *s, const char *const *list, size_t n, bool whole)
{
    for (size_t i = 0; i < n; i++)
        if (whole ? strcmp(s, list[i]) == 0 : strstr(s, list[i]) != NULL)
            return true;
    return false;
}
#define ONE_OF(s, list, whole) one_of(s, list, sizeof(list) / sizeof(list)[0], whole)

bool nng_text_lost_peer(const struct nng_traceback *tb)
{
    static const char *const pools[] = {"BrokenProcessPool", "TerminatedWorkerError"};
    static const char *const pipes[] = {"ConnectionResetError", "ConnectionRefusedError",
                                        "ConnectionAbortedError", "EOFError"};
    static const char *const inside[] = {"multiprocessing/", "concurrent/futures/", "loky/",
                                         "batchgenerators/", "torch/distributed/",  "c10d"};
    static const char *const nets[] = {"/socket.py",     "/ssl.py",    "/http/",   "urllib",
                                       "requests/",      "asyncio/",   "aiohttp",  "redis",
                                       "/smtplib.py",    "/ftplib.py", "paramiko", "grpc",
                                       "socketserver.py"};
    static const char *const ranks[] = {"DistBackendError", "DistStoreError", "DistNetworkError",
                                        "RuntimeError"};

    if (ONE_OF(tb->type, pools, true))
        return true;
    if (strcmp(tb->type, "BrokenPipeError") == 0)
        return !ONE_OF(tb->origin, nets, false);
    if (ONE_OF(tb->type, pipes, true))
        return !tb->origin[0] || ONE_OF(tb->origin, inside, false);
    /* gloo, NCCL and their store */
    return ONE_OF(tb->type, ranks, true) && (strstr(tb->message, "Connection reset by peer") ||
                                             strstr(tb->message, "Connection closed by peer"));
}
