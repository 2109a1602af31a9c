/* SPDX-License-Identifier: MIT
 *
 * A list of lines that is made to fit a limit by leaving out whole lines, the least important
 * first, and the cleaning of every line on its way out. Column arithmetic knows UTF-8 and wide
 * characters.
 */
#include "part.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- UTF-8 --------------------------------------------------------------------------------------
 */

/* Decode one character of valid UTF-8 (the cleaner made it so); an odd byte counts as itself. */
static uint32_t next_char(const char **p)
{
    const unsigned char *s = (const unsigned char *)*p;
    unsigned more = s[0] >= 0xf0 ? 3 : s[0] >= 0xe0 ? 2 : s[0] >= 0xc0 ? 1 : 0;
    uint32_t c = more == 3 ? s[0] & 7u : more == 2 ? s[0] & 15u : more == 1 ? s[0] & 31u : s[0];
    unsigned i = 1;
    for (; i <= more && (s[i] & 0xc0) == 0x80; i++)
        c = c << 6 | (s[i] & 63u);
    *p += i;
    return c;
}

static bool is_wide(uint32_t c)
{
    return (c >= 0x1100 && c <= 0x115f) || (c >= 0x2e80 && c <= 0xa4cf) ||
           (c >= 0xac00 && c <= 0xd7a3) || (c >= 0xf900 && c <= 0xfaff) ||
           (c >= 0xfe30 && c <= 0xfe6f) || (c >= 0xff00 && c <= 0xff60) ||
           (c >= 0xffe0 && c <= 0xffe6) || (c >= 0x1f300 && c <= 0x1faff) ||
           (c >= 0x20000 && c <= 0x3fffd);
}

int nng_columns(const char *s)
{
    int n = 0;
    while (*s)
        n += is_wide(next_char(&s)) ? 2 : 1;
    return n;
}

void nng_fold_ascii(char *text)
{
    static const struct {
        uint32_t from;
        const char *to;
    } table[] = {
        {0x2026, "..."}, {0x2013, "-"},  {0x2014, "-"},  {0x2018, "'"},  {0x2019, "'"},
        {0x201c, "\""},  {0x201d, "\""}, {0x00d7, "x"},  {0x2265, ">="}, {0x2264, "<="},
        {0x00b5, "u"},   {0x00a0, " "},  {0x2192, "->"}, {0x2190, "<-"},
    };
    char *w = text;
    for (const char *p = text; *p;) {
        if (!(*p & 0x80)) {
            *w++ = *p++;
            continue;
        }
        uint32_t c = next_char(&p);
        const char *to = "?";
        for (size_t i = 0; i < sizeof table / sizeof *table; i++)
            if (table[i].from == c)
                to = table[i].to;
        while (*to && w < p) /* never longer than what it stands for */
            *w++ = *to++;
    }
    *w = 0;
}

/* ---- cleaning -----------------------------------------------------------------------------------
 */

static bool is_value_end(char c)
{
    return !c || strchr(" \t\n\"'`,;&)}]<>|", c);
}

/* Put "***" in place of the `n` bytes at p. */
static void mask(char *p, size_t n)
{
    size_t keep = n < 3 ? n : 3;
    memset(p, '*', keep);
    memmove(p + keep, p + n, strlen(p + n) + 1);
}

static void redact_after(char *line, const char *name)
{
    for (char *p = line; (p = strcasestr(p, name));) {
        p += strlen(name);
        char *q = p;
        while (*q == '"' || *q == '\'' || *q == ' ')
            q++;
        if (*q != '=' && *q != ':')
            continue;
        q++;
        while (*q == '"' || *q == '\'' || *q == ' ')
            q++;
        if (!strncasecmp(q, "bearer ", 7) || !strncasecmp(q, "basic ", 6))
            q = strchr(q, ' ') + 1;
        size_t n = 0;
        while (!is_value_end(q[n]))
            n++;
        mask(q, n);
    }
}

void nng_redact(char *line)
{
    static const char *const names[] = {"password",   "passwd",     "secret",       "token",
                                        "api_key",    "apikey",     "api-key",      "access_key",
                                        "access-key", "credential", "authorization"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        redact_after(line, names[i]);
    /* scheme://user:password@host */
    for (char *p = line; (p = strstr(p, "://"));) {
        p += 3;
        size_t end = strcspn(p, "@/ \t\"'");
        char *colon = memchr(p, ':', end);
        if (p[end] == '@' && colon)
            mask(colon + 1, (size_t)(p + end - colon - 1));
    }
}

void nng_clean(char *out, size_t n, const char *text)
{
    nng_text_clean_line(out, n, text, strlen(text));
    nng_redact(out);
}

/* ---- the list -----------------------------------------------------------------------------------
 */

void nng_lines_add(struct nng_lines *l, int weight, enum nng_tint tint, const char *text)
{
    if (l->n >= NNG_LINES_MAX)
        return;
    struct nng_line *line = &l->line[l->n++];
    line->weight = weight;
    line->tint = tint;
    nng_clean(line->text, sizeof line->text, text);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Chinese punctuation that must not begin a line. */
static bool is_closing(uint32_t c)
{
    return c == 0xff0c || c == 0x3002 || c == 0xff1b || c == 0xff09 || c == 0xff1a || c == 0x3001;
}

/* How many bytes of `s` fit into `width` columns, cut after a space or beside a wide character. */
static size_t fitting(const char *s, int width)
{
    const char *p = s, *cut = NULL;
    int columns = 0;
    while (*p) {
        const char *at = p;
        uint32_t c = next_char(&p);
        columns += is_wide(c) ? 2 : 1;
        if (columns > width)
            return cut ? (size_t)(cut - s) : strcspn(s, " "); /* a long word stays whole */
        if (c == ' ' && !(at > s && is_digit(at[-1]) && is_letter(*p)))
            cut = p; /* but a number stays with its unit */
        else if (is_wide(c) && at > s && !is_closing(c))
            cut = at;
    }
    return (size_t)(p - s);
}

void nng_lines_wrap(struct nng_lines *l, int weight, const char *text, int indent)
{
    char clean[NNG_LINE_MAX], line[NNG_LINE_MAX + 32];
    nng_clean(clean, sizeof clean, text);
    const int width = NNG_COLUMNS - (int)strlen(NNG_PREFIX);
    const char *p = clean;
    for (bool first = true; *p; first = false) {
        int pad = first ? 0 : indent;
        size_t n = fitting(p, width - pad);
        if (!n)
            n = 1;
        int shown = (int)n;
        while (shown > 0 && p[shown - 1] == ' ')
            shown--;
        snprintf(line, sizeof line, "%*s%.*s", pad, "", shown, p);
        nng_lines_add(l, weight, NNG_PLAIN, line);
        p += n;
        while (*p == ' ')
            p++;
    }
}

/* ---- output -------------------------------------------------------------------------------------
 */

static const char *tint_on(enum nng_tint t)
{
    return t == NNG_ALARM ? "\033[1;31m" : t == NNG_CURE ? "\033[32m" : "";
}

static size_t line_size(const struct nng_line *l, const struct nng_style *s, const char *prefix)
{
    size_t n = strlen(prefix) + strlen(l->text) + 1;
    if (s->color && l->tint != NNG_PLAIN)
        n += strlen(tint_on(l->tint)) + strlen("\033[0m");
    return n;
}

/* Mark lines as left out, the least important (of these the last) first, until the rest fits. */
static void choose(const struct nng_lines *l, const struct nng_style *s, const char *prefix,
                   size_t max, bool *out)
{
    size_t total = 0;
    for (int i = 0; i < l->n; i++) {
        out[i] = false;
        total += line_size(&l->line[i], s, prefix);
    }
    while (total > max) {
        int worst = -1;
        for (int i = 0; i < l->n; i++)
            if (!out[i] && (worst < 0 || l->line[i].weight >= l->line[worst].weight))
                worst = i;
        if (worst < 0)
            break;
        out[worst] = true;
        total -= line_size(&l->line[worst], s, prefix);
    }
}

size_t nng_lines_write(const struct nng_lines *l, const struct nng_style *s, const char *prefix,
                       char *out, size_t max)
{
    bool left_out[NNG_LINES_MAX];
    size_t len = 0;
    choose(l, s, prefix, max, left_out);
    for (int i = 0; i < l->n; i++) {
        if (left_out[i])
            continue;
        const struct nng_line *line = &l->line[i];
        bool tint = s->color && line->tint != NNG_PLAIN;
        char text[NNG_LINE_MAX];
        memcpy(text, line->text, sizeof text);
        if (!s->utf8)
            nng_fold_ascii(text);
        const char *const parts[] = {prefix, tint ? tint_on(line->tint) : "", text,
                                     tint ? "\033[0m" : "", "\n"};
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
            size_t n = strlen(parts[k]);
            memcpy(out + len, parts[k], n);
            len += n;
        }
    }
    return len;
}
