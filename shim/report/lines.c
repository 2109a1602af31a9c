/* SPDX-License-Identifier: MIT
 *
 * A list of lines that is made to fit a limit by leaving out whole lines, the least important
 * first, and the cleaning of every line on its way out. Column arithmetic knows UTF-8 and wide
 * characters.
 */
#include "part.h"

#include <ctype.h>
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

/* Put "***" in place of the `n` bytes at p; returns where the rest goes on. */
static char *mask(char *p, size_t n)
{
    size_t keep = n < 3 ? n : 3;
    memset(p, '*', keep);
    memmove(p + keep, p + n, strlen(p + n) + 1);
    return p + keep;
}

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '-';
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* The length of a value that begins at p. In quotes (`quote`; `escaped`: those of a text within a text) up to
 * the closing one, else up to a blank: a password may hold any other character. */
static size_t value_length(const char *p, char quote, bool escaped)
{
    size_t n = 0;

    if (quote) {
        while (p[n] && p[n] != quote && !(escaped && p[n] == '\\'))
            n += p[n] == '\\' && p[n + 1] ? 2 : 1;
        return n;
    }
    while (p[n] && !is_blank(p[n]))
        n++;
    while (n && strchr("\"'`,;)}]>", p[n - 1])) /* what closes the text around it */
        n--;
    return n;
}

/* Mask the value at p, which may be in quotes. */
static char *mask_value(char *p)
{
    bool escaped = *p == '\\' && (p[1] == '"' || p[1] == '\'');
    char quote = 0;

    p += escaped;
    if (*p == '"' || *p == '\'' || *p == '`')
        quote = *p++;
    return mask(p, value_length(p, quote, escaped));
}

static char *past(char *p, const char *chars)
{
    return p + strspn(p, chars);
}

/* "Bearer", "token": how, not what. */
static char *past_scheme(char *p)
{
    static const char *const schemes[] = {"bearer ", "basic ", "token ", "digest ", "apikey "};

    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
        if (!strncasecmp(p, schemes[i], strlen(schemes[i])))
            return past(p + strlen(schemes[i]), " ");
    return p;
}

static const char *const secrets[] = {
    "password",   "passwd",      "passphrase", "secret",     "token",      "api_key",
    "apikey",     "api-key",     "access_key", "access-key", "secret_key", "private_key",
    "credential", "credentials", "auth_key",   "wandb_key",  "license_key"};

/* NAME=value, "name": "value", name: value, --name value; the name may be the end of a longer one. */
static void redact_after(char *line, const char *name)
{
    for (char *p = line; (p = strcasestr(p, name));) {
        char *word = p;
        while (word > line && is_word(word[-1]))
            word--;
        bool flag = word[0] == '-' && word[1] == '-';
        p += strlen(name);
        char *q = past(p, "\"' \\");
        if (*q == '=' || *q == ':') {
            q = past(q + 1, " ");
            char *inner = q + strspn(q, "\\\"'");
            char *bare = past_scheme(inner);
            p = bare > inner ? mask(bare, strcspn(bare, "\"'\\ ")) : mask_value(q);
        } else if ((flag || !strncasecmp(name, "passw", 5)) && is_blank(*p)) {
            q = past(p, " \t");
            if (!flag && strncasecmp(q, "is ", 3) != 0)
                continue;
            if (!flag)
                q = past(q + 3, " ");
            if (*q != '-')
                p = mask_value(q);
        }
    }
}

/* An HTTP header: everything behind its name, up to the end of the text that it stands in. */
static void redact_header(char *line)
{
    for (char *p = line; (p = strcasestr(p, "authorization"));) {
        p += strlen("authorization");
        char *q = past(p, "\"' \\");
        if (*q != ':' && *q != '=')
            continue;
        q = past_scheme(past(q + 1, " \"'\\"));
        p = mask(q, strcspn(q, "\"'\\"));
    }
}

/* FOO_KEY=value, as services name them in the environment. */
static void redact_keys(char *line)
{
    for (char *p = line; (p = strstr(p, "_KEY"));) {
        p += 4;
        if (*p == '=')
            p = mask_value(p + 1);
    }
}

/* scheme://user:password@host. A password may hold '/', and a port is none. */
static void redact_urls(char *line)
{
    for (char *p = line; (p = strstr(p, "://"));) {
        p += 3;
        size_t end = strcspn(p, " \t\"'<>`");
        char *at = memrchr(p, '@', end), *slash = memchr(p, '/', end);
        char *colon = at ? memchr(p, ':', (size_t)(at - p)) : NULL;
        if (!at ||
            (slash && colon && slash < at && colon + 1 + strspn(colon + 1, "0123456789") == slash))
            continue;
        if (colon && (!slash || colon < slash))
            mask(colon + 1, (size_t)(at - colon - 1));
        else if (!colon && (!slash || at < slash) && at - p >= 16)
            mask(p, (size_t)(at - p)); /* a token in the place of the user */
    }
}

/* Keys that are known by how they begin. */
static void redact_known(char *line)
{
    static const struct {
        const char *start;
        size_t least;
    } known[] = {{"sk-", 10},        {"ghp_", 6},  {"gho_", 6},  {"ghu_", 6},  {"ghs_", 6},
                 {"ghr_", 6},        {"hf_", 6},   {"AKIA", 12}, {"ASIA", 12}, {"glpat-", 8},
                 {"github_pat_", 8}, {"xoxb-", 8}, {"xoxp-", 8}, {"AIza", 20}, {"eyJ", 20},
                 {"wandb_v1_", 8},   {"npm_", 20}, {"pypi-", 20}};

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        for (char *p = line; (p = strstr(p, known[i].start));) {
            char *rest = p + strlen(known[i].start);
            bool whole = p == line || !is_word(p[-1]);
            size_t n = 0;
            bool mixed = false; /* capitals or digits: no word, no name of a function */
            for (; is_word(rest[n]) || (rest[n] == '.' && is_word(rest[n + 1])); n++)
                mixed |= isdigit((unsigned char)rest[n]) || isupper((unsigned char)rest[n]);
            p = whole && mixed && n >= known[i].least ? mask(rest, n) : rest;
        }
}

bool nng_secret_flag(const char *arg)
{
    size_t n = strlen(arg);

    if (strncmp(arg, "--", 2) != 0)
        return false;
    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++) {
        size_t len = strlen(secrets[i]);
        if (n > len && !strcasecmp(arg + n - len, secrets[i]))
            return true;
    }
    return false;
}

void nng_redact(char *line)
{
    redact_header(line);
    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++)
        redact_after(line, secrets[i]);
    redact_keys(line);
    redact_urls(line);
    redact_known(line);
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
