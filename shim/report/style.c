/* SPDX-License-Identifier: MIT
 *
 * Language, colour and character set, from the environment alone: a static program must not call
 * setlocale (it would look for locale archives and iconv modules).
 */
#include "../journal/words.h"
#include "part.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

static const char *env(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

/* The locale that messages would have, in the order that setlocale uses. */
static const char *locale_name(void)
{
    static const char *const names[] = {"LC_ALL", "LC_MESSAGES", "LANG"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (env(names[i]))
            return env(names[i]);
    return "C";
}

/* The character set is LC_CTYPE's business, which may differ from LC_MESSAGES. */
static bool locale_utf8(void)
{
    const char *v = env("LC_ALL");
    if (!v)
        v = env("LC_CTYPE");
    if (!v)
        v = env("LANG");
    return v && (strcasestr(v, "utf-8") || strcasestr(v, "utf8"));
}

static bool want_color(int fd)
{
    const char *v = env("NNGUARD_COLOR");
    if (v && (nng_word_is(v, "always") || nng_word_answer(v) == NNG_SAYS_YES))
        return true;
    if (v && nng_word_answer(v) == NNG_SAYS_NO)
        return false;
    const char *term = env("TERM");
    return !env("NO_COLOR") && term && strcmp(term, "dumb") && fd >= 0 && isatty(fd);
}

bool nng_style_knows_color(void)
{
    const char *v = env("NNGUARD_COLOR");
    return !v || nng_word_is(v, "always") || nng_word_is(v, "auto") ||
           nng_word_answer(v) != NNG_SAYS_WHAT;
}

bool nng_style_knows_lang(void)
{
    const char *v = env("NNGUARD_LANG");
    return !v || nng_word_is(v, "auto") || !strncasecmp(v, "zh", 2) || !strncasecmp(v, "en", 2);
}

void nng_style_from_env(struct nng_style *s, int fd)
{
    const char *v = env("NNGUARD_LANG");
    s->utf8 = locale_utf8();
    s->color = want_color(fd);
    if (v && !strncasecmp(v, "zh", 2)) {
        /* Asked for by name: images often have no locale at all, yet a terminal that shows UTF-8.
         */
        s->lang = NNG_ZH;
        s->utf8 = true;
    } else if (v && !strncasecmp(v, "en", 2)) {
        s->lang = NNG_EN;
    } else {
        s->lang = !strncasecmp(locale_name(), "zh", 2) ? NNG_ZH : NNG_EN;
    }
}

enum nng_lang nng_style_lang(const struct nng_style *s)
{
    return s->utf8 ? s->lang : NNG_EN;
}
