/* SPDX-License-Identifier: MIT
 *
 * The words that people use for yes and no in a setting. Shared by the library and the monitor, so that
 * both take the same for the same. [as-safe] No libc.
 */
#ifndef NNG_JOURNAL_WORDS_H
#define NNG_JOURNAL_WORDS_H

#include <stdbool.h>
#include <stddef.h>

/* Is s, without blanks around it and whatever its case, that word (lower case)? */
static inline bool nng_word_is(const char *s, const char *word)
{
    while (*s == ' ' || *s == '\t')
        s++;
    for (; *word; s++, word++)
        if ((*s >= 'A' && *s <= 'Z' ? *s + 32 : *s) != *word)
            return false;
    while (*s == ' ' || *s == '\t')
        s++;
    return !*s;
}

enum nng_answer { NNG_SAYS_NOTHING, NNG_SAYS_YES, NNG_SAYS_NO, NNG_SAYS_WHAT };

/* 1, yes, on, true and kin; 0, no, off, false and kin; NULL and "" are unset. */
static inline enum nng_answer nng_word_answer(const char *s)
{
    static const char yes[][9] = {"yes", "on", "true", "y", "t", "enable", "enabled"};
    static const char no[][9] = {"no",   "off",   "false",   "n",       "f",
                                 "none", "never", "disable", "disabled"};
    bool digits = s && *s, zero = true;

    if (!s || nng_word_is(s, ""))
        return NNG_SAYS_NOTHING;
    for (const char *p = s; *p; p++) {
        digits &= *p >= '0' && *p <= '9';
        zero &= *p == '0';
    }
    if (digits)
        return zero ? NNG_SAYS_NO : NNG_SAYS_YES;
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        if (nng_word_is(s, yes[i]))
            return NNG_SAYS_YES;
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (nng_word_is(s, no[i]))
            return NNG_SAYS_NO;
    return NNG_SAYS_WHAT;
}

#endif
