/* SPDX-License-Identifier: MIT
 *
 * Numbers for people, cleaning of hostile text, Python tracebacks.
 */
#include "shim/causes/evidence.h"
#include "shim/causes/text.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void bytes_have_units_and_one_decimal(void **state)
{
    (void)state;
    assert_string_equal(nng_bytes(0), "0 B");
    assert_string_equal(nng_bytes(1023), "1023 B");
    assert_string_equal(nng_bytes(1024), "1.0 KiB");
    assert_string_equal(nng_bytes(64 << 20), "64.0 MiB");
    assert_string_equal(nng_bytes(1048575), "1.0 MiB"); /* not 1024.0 KiB */
    assert_string_equal(nng_bytes(INT64_C(1610612736)), "1.5 GiB");
    assert_string_equal(nng_bytes(INT64_MAX), "8.0 EiB");
    assert_string_equal(nng_bytes(-1), "?");
    assert_string_equal(nng_bytes(INT64_MIN), "?");
}

static void sizes_are_what_a_person_would_type(void **state)
{
    (void)state;
    assert_string_equal(nng_size_arg(0), "64m");
    assert_string_equal(nng_size_arg(65 << 20), "128m");
    assert_string_equal(nng_size_arg(634 << 20), "1g");
    assert_string_equal(nng_size_arg(1 << 30), "1g");
    assert_string_equal(nng_size_arg((1 << 30) + 1), "2g");
    assert_string_equal(nng_size_arg(INT64_C(5) << 30), "6g");
    assert_string_equal(nng_size_arg(INT64_C(7) << 30), "8g");
    assert_string_equal(nng_size_arg(INT64_C(13) << 30), "16g");
    assert_true(strlen(nng_size_arg(INT64_MAX)) < 16);
}

static void the_typed_size_is_never_less_than_needed(void **state)
{
    (void)state;
    for (int64_t need = 1; need > 0 && need < INT64_C(1) << 46; need = need * 5 / 3 + 7) {
        const char *s = nng_size_arg(need);
        int64_t n = strtoll(s, NULL, 10) << (s[strlen(s) - 1] == 'g' ? 30 : 20);
        assert_true(n >= need);
        assert_true(n < 3 * need || n == 64 << 20);
    }
}

#define CLEANS(in, want)                                                                           \
    do {                                                                                           \
        char out_[256];                                                                            \
        size_t n_ = nng_text_clean(out_, sizeof out_, (in), sizeof(in) - 1);                       \
        assert_string_equal(out_, (want));                                                         \
        assert_int_equal(n_, strlen(want));                                                        \
    } while (0)

static void terminal_codes_do_not_get_through(void **state)
{
    (void)state;
    CLEANS("a\tb\nc", "a\tb\nc");
    CLEANS("\033[31mred\033[0m", "red");
    CLEANS("\033]0;title\007after", "after");
    CLEANS("\033]8;;http://x\033\\link\033]8;;\033\\", "link");
    CLEANS("\033(Bx\033=y\033c", "xy");
    CLEANS("bell\007back\010del\177nul\0end", "bell?back?del?nul?end");
    CLEANS("c1 \xc2\x9b"
           "31m \x9b",
           "c1 ?31m ?");
}

static void an_unfinished_sequence_hides_nothing(void **state)
{
    (void)state;
    CLEANS("\033]0;never ends\nsecond line", "0;never ends\nsecond line");
    CLEANS("\033[1;2", "1;2");
    CLEANS("x\033", "x");
    CLEANS("\033", "");
    CLEANS("\033P1\033[31mx", "1x");
}

static void progress_lines_keep_their_last_part(void **state)
{
    (void)state;
    CLEANS("10%\r50%\r100%\nnext", "100%\nnext");
    CLEANS("dos\r\nline\r\n", "dos\nline\n");
    CLEANS("50%\r", "50%");
    CLEANS("50%\r\r", "50%");
    CLEANS("old\r\033[Knew", "new");
    CLEANS("5%|##  |\rTraceback (most", "Traceback (most");
}

static void only_valid_utf8_gets_through(void **state)
{
    (void)state;
    CLEANS("\xe5\xb7\xa5\xe4\xbd\x9c", "\xe5\xb7\xa5\xe4\xbd\x9c");
    CLEANS("\xe5\xb7", "??");           /* cut */
    CLEANS("\xc0\xaf", "??");           /* overlong */
    CLEANS("\xed\xa0\x80", "???");      /* surrogate */
    CLEANS("\xf4\x90\x80\x80", "????"); /* beyond the last */
    CLEANS("\xff\xfe", "??");
    CLEANS("a\xe2\x80\xae"
           "b",
           "a?b"); /* right-to-left override */
    CLEANS("a\xe2\x81\xa6"
           "b",
           "a?b"); /* isolate */
    CLEANS("a\xe2\x80\xa8"
           "b",
           "a?b"); /* line separator */
    CLEANS("a\xef\xbb\xbf"
           "b",
           "a?b"); /* byte order mark */
}

static void one_line_stays_one_line(void **state)
{
    char out[64];
    const char *in = "a\nb\tc\rd\n\n";
    (void)state;
    nng_text_clean_line(out, sizeof out, in, strlen(in));
    assert_string_equal(out, "a b c d");
}

static void output_is_bounded_and_never_cut_inside_a_character(void **state)
{
    const char *in = "ab\xe5\xb7\xa5\xe4\xbd\x9c";
    (void)state;
    for (size_t size = 1; size < 12; size++) {
        char out[16];
        memset(out, '#', sizeof out);
        size_t n = nng_text_clean(out, size, in, strlen(in));
        assert_true(n < size);
        assert_int_equal(out[n], 0);
        assert_int_equal(out[size], '#');
        char again[16];
        nng_text_clean(again, sizeof again, out, n);
        assert_string_equal(again, out);
    }
    assert_int_equal(nng_text_clean(NULL, 0, in, 2), 0);
}

static bool terminal_safe(const char *s)
{
    for (; *s; s++)
        if (((unsigned char)*s < 0x20 && *s != '\n' && *s != '\t') || *s == 0x7f)
            return false;
    return true;
}

static void random_bytes_come_out_clean(void **state)
{
    static const char pieces[] =
        "\033\033[]PX^_;?0123mK\007\\\r\n\t \xc2\x9b\xe2\x80\xae\xf0\x9f\x98\x80"
        "z";
    uint32_t x = 12345;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        char in[96], out[96], again[96];
        size_t n = 0, size;
        x = x * 1664525 + 1013904223;
        size_t want = (x >> 8) % sizeof in;
        for (; n < want; n++) {
            x = x * 1664525 + 1013904223;
            in[n] = (x >> 28) == 0 ? (char)(x >> 12) : pieces[(x >> 12) % (sizeof pieces - 1)];
        }
        size = 1 + (x >> 9) % sizeof out;
        size_t len = nng_text_clean(out, size, in, n);
        assert_true(len < size);
        assert_int_equal(out[len], 0);
        assert_true(terminal_safe(out));
        /* cleaning twice changes nothing: all that was left is harmless text */
        nng_text_clean(again, sizeof again, out, len);
        assert_string_equal(again, out);
        nng_text_clean_line(out, size, in, n);
        assert_null(strpbrk(out, "\n\t\r\033"));
    }
}

static void paths_are_shortened_from_the_left(void **state)
{
    (void)state;
    assert_string_equal(nng_path_short("/a/b.py", 40), "/a/b.py");
    assert_string_equal(nng_path_short("/usr/lib/python3/site-packages/nnunetv2/x.py", 20),
                        ".../nnunetv2/x.py");
    assert_true(strlen(nng_path_short("no-slash-in-a-very-long-name-at-all.bin", 12)) <= 12);
    assert_true(strlen(nng_path_short("/a/b/c/d/e/f", 1)) <= 8);
    assert_true(strlen(nng_path_short("/工作/工作/工作/工作/工作/x.py", 24)) <= 24);
    char longest[2000];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    assert_true(strlen(nng_path_short(longest, 5000)) < 320);
}

static void names_of_signals_and_errors(void **state)
{
    (void)state;
    assert_string_equal(nng_signal_name(SIGBUS), "SIGBUS");
    assert_string_equal(nng_signal_name(SIGSYS), "SIGSYS");
    assert_string_equal(nng_signal_name(37), "SIGRTMIN+3");
    assert_string_equal(nng_signal_name(99), "signal 99");
    assert_string_equal(nng_signal_name(-4), "signal -4");
    assert_string_equal(nng_errno_name(ENOSPC), "ENOSPC");
    assert_string_equal(nng_errno_name(EDQUOT), "EDQUOT");
    assert_string_equal(nng_errno_name(999), "errno 999");
}

static void fields_need_no_terminator(void **state)
{
    char raw[4] = {'a', '\001', 'b', 'c'};
    (void)state;
    assert_string_equal(NNG_FIELD(raw), "a?bc");
}

/* ---- tracebacks ------------------------------------------------------------------------------- */

static struct nng_traceback tb;

static void parse(const char *text)
{
    nng_text_traceback(text, &tb);
}

static void a_plain_traceback(void **state)
{
    (void)state;
    parse("Process ForkProcess-1:\nTraceback (most recent call last):\n"
          "  File \"/usr/lib/python3.11/multiprocessing/process.py\", line 314, in _bootstrap\n"
          "    self.run()\n"
          "  File \"/home/u/train.py\", line 7, in load\n"
          "    return 1 / 0\n"
          "           ~~^~~\n"
          "ZeroDivisionError: division by zero\n");
    assert_true(tb.present && tb.complete && tb.last);
    assert_string_equal(tb.type, "ZeroDivisionError");
    assert_string_equal(tb.message, "division by zero");
    assert_string_equal(tb.file, "/home/u/train.py");
    assert_int_equal(tb.line, 7);
    assert_string_equal(tb.func, "load");
    assert_string_equal(tb.origin, "/home/u/train.py:7 load");
    assert_false(tb.background_worker);
}

static void the_frame_shown_is_the_users_own(void **state)
{
    (void)state;
    parse(
        "Traceback (most recent call last):\n"
        "  File \"/home/u/own.py\", line 3, in run\n    np.load(p)\n"
        "  File \"/v/lib/python3.11/site-packages/numpy/lib/npyio.py\", line 427, in load\n    x\n"
        "ValueError: bad\n");
    assert_string_equal(tb.file, "/home/u/own.py");
    assert_string_equal(tb.origin, "/v/lib/python3.11/site-packages/numpy/lib/npyio.py:427 load");
    parse("Traceback (most recent call last):\n"
          "  File \"/v/lib/python3.11/site-packages/a.py\", line 1, in f\n    x\n"
          "  File \"/v/lib/python3.11/site-packages/b.py\", line 2, in g\n    x\n"
          "KeyError: 'k'\n");
    assert_string_equal(tb.file, "/v/lib/python3.11/site-packages/b.py");
}

static void of_a_chain_the_last_counts_and_the_first_is_kept(void **state)
{
    (void)state;
    parse("Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x\n"
          "KeyError: 'first'\n\n"
          "During handling of the above exception, another exception occurred:\n\n"
          "Traceback (most recent call last):\n  File \"a.py\", line 2, in g\n    y\n"
          "ValueError: second\n\n"
          "The above exception was the direct cause of the following exception:\n\n"
          "Traceback (most recent call last):\n  File \"a.py\", line 3, in h\n    z\n"
          "RuntimeError: third\n");
    assert_string_equal(tb.type, "RuntimeError");
    assert_string_equal(tb.message, "third");
    assert_string_equal(tb.root_type, "KeyError");
    assert_string_equal(tb.root_message, "'first'");
}

static void unrelated_tracebacks_are_no_chain(void **state)
{
    (void)state;
    parse(
        "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x\nKeyError: "
        "'old'\n"
        "went on\n"
        "Traceback (most recent call last):\n  File \"a.py\", line 2, in g\n    y\nOSError: new\n");
    assert_string_equal(tb.type, "OSError");
    assert_string_equal(tb.root_type, "");
}

static void background_workers_are_recognised_in_any_order(void **state)
{
    (void)state;
    parse("Exception in background worker 3:\n boom\nTraceback (most recent call last):\n"
          "  File \"a.py\", line 1, in f\n    x\nValueError: boom\n");
    assert_true(tb.background_worker && tb.complete);
    parse("Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x\n"
          "ValueError: boom\nException in background worker 3:\n boom\n");
    assert_true(tb.background_worker && tb.complete && tb.last);
    parse("Exception in background worker 3:\n boom\n");
    assert_true(tb.background_worker);
    assert_false(tb.present);
}

static void types_with_modules_and_without_messages(void **state)
{
    (void)state;
    parse("Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x\n"
          "zlib.error: Error -3 while decompressing data: incorrect header check\n");
    assert_string_equal(tb.type, "error");
    assert_string_equal(tb.message, "Error -3 while decompressing data: incorrect header check");
    parse(
        "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x\n_queue.Empty\n");
    assert_string_equal(tb.type, "Empty");
    assert_string_equal(tb.message, "");
    parse("Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x\n"
          "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 3.00 GiB for an array\n");
    assert_string_equal(tb.type, "_ArrayMemoryError");
    parse(
        "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x\nMemoryError\n");
    assert_string_equal(tb.type, "MemoryError");
    parse("Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x\n"
          "KeyboardInterrupt\n");
    assert_true(tb.keyboard);
}

static void syntax_errors_have_a_frame_without_a_function(void **state)
{
    (void)state;
    parse("Traceback (most recent call last):\n  File \"main.py\", line 1, in <module>\n"
          "    import broken\n  File \"/home/u/broken.py\", line 4\n    def f(\n         ^\n"
          "SyntaxError: '(' was never closed\n");
    assert_string_equal(tb.type, "SyntaxError");
    assert_string_equal(tb.file, "/home/u/broken.py");
    assert_int_equal(tb.line, 4);
    assert_string_equal(tb.func, "");
}

static void noise_between_the_frames_does_no_harm(void **state)
{
    (void)state;
    parse("Traceback (most recent call last):\n"
          "WARNING: from another thread\n"
          "2024-01-01 10:00:00.1: epoch 3\n"
          "  File \"a.py\", line 1, in f\n    x\n"
          "Epoch: 4\n"
          "Using: cuda\n"
          "  File \"b.py\", line 2, in g\n    y\n"
          "ValueError: real\nlast words\n");
    assert_string_equal(tb.type, "ValueError");
    assert_string_equal(tb.message, "real");
    assert_string_equal(tb.file, "b.py");
    /* a line that could be an exception stands in the middle */
    parse("Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x\n"
          "Dice: 0.8\n  File \"b.py\", line 2, in g\n    y\nOSError: real\n");
    assert_string_equal(tb.type, "OSError");
}

static void a_header_that_was_lost_or_an_end_that_was_cut(void **state)
{
    (void)state;
    parse("st):\n  File \"a.py\", line 1, in f\n    x\n  File \"b.py\", line 2, in g\n    y\n"
          "RuntimeError: late\n");
    assert_true(tb.present && tb.complete);
    assert_string_equal(tb.type, "RuntimeError");
    parse("Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x\n");
    assert_true(tb.present);
    assert_false(tb.complete);
    parse(
        "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x\nValueError: a\n"
        "Traceback (most recent call last):\n");
    assert_true(tb.complete);
    assert_string_equal(tb.type, "ValueError");
}

static void the_message_may_begin_on_the_next_line(void **state)
{
    (void)state;
    parse("Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x\n"
          "RuntimeError: \n        An attempt has been made to start a new process\n");
    assert_string_equal(tb.message, "An attempt has been made to start a new process");
}

static void groups_ranks_and_original_tracebacks(void **state)
{
    (void)state;
    parse("  + Exception Group Traceback (most recent call last):\n"
          "  |   File \"a.py\", line 1, in f\n  |     x\n"
          "  | ExceptionGroup: two (2 sub-exceptions)\n"
          "  +-+---------------- 1 ----------------\n"
          "    | Traceback (most recent call last):\n"
          "    |   File \"a.py\", line 9, in g\n    |     y\n"
          "    | ValueError: inner\n    +------------------------------------\n");
    assert_true(tb.complete);
    assert_string_equal(tb.type, "ValueError");
    assert_string_equal(tb.message, "inner");
    parse("[rank0]: Traceback (most recent call last):\n[rank0]:   File \"a.py\", line 1, in f\n"
          "[rank0]:     x\n[rank0]: RuntimeError: on a rank\n");
    assert_string_equal(tb.type, "RuntimeError");
    assert_string_equal(tb.message, "on a rank");
    parse("Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x\n"
          "RuntimeError: Caught KeyError in DataLoader worker process 0.\n"
          "Original Traceback (most recent call last):\n"
          "  File \"b.py\", line 2, in g\n    y\nKeyError: 'x'\n");
    assert_string_equal(tb.type, "KeyError");
}

static void faulthandler_is_no_traceback(void **state)
{
    (void)state;
    parse("Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n"
          "  File \"a.py\", line 3 in f\n  File \"a.py\", line 9 in <module>\n");
    assert_false(tb.present);
    parse("");
    assert_false(tb.present);
}

static void what_is_said_after_it_counts(void **state)
{
    char text[4096] = "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x\n"
                      "ValueError: handled\n";
    (void)state;
    for (int i = 0; i < 40; i++)
        strcat(text, "epoch done\n");
    parse(text);
    assert_true(tb.complete);
    assert_false(tb.last);
}

static void random_tracebacks_are_survived(void **state)
{
    static const char *const pieces[] = {"Traceback (most recent call last):",
                                         "  File \"",
                                         "\", line ",
                                         "12",
                                         ", in ",
                                         "f\n",
                                         "\n",
                                         "    code\n",
                                         "Error: x",
                                         "ValueError",
                                         ": ",
                                         "  | ",
                                         "  + ",
                                         "[rank0]: ",
                                         "\xe5\xb7\xa5",
                                         "During handling of the above exception",
                                         "Exception in background worker 1:",
                                         "^^^~~\n",
                                         "\"",
                                         "99999999999999999999"};
    uint32_t x = 99;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        char text[700] = "";
        x = x * 1664525 + 1013904223;
        for (unsigned i = 0, n = (x >> 10) % 24; i < n; i++) {
            x = x * 1664525 + 1013904223;
            strcat(text, pieces[(x >> 11) % (sizeof pieces / sizeof pieces[0])]);
        }
        parse(text);
        assert_true(strnlen(tb.type, sizeof tb.type) < sizeof tb.type);
        assert_true(strnlen(tb.message, sizeof tb.message) < sizeof tb.message);
        assert_true(strnlen(tb.origin, sizeof tb.origin) < sizeof tb.origin);
        assert_true(strnlen(tb.file, sizeof tb.file) < sizeof tb.file);
        assert_true(!tb.complete || tb.present);
    }
}

static void a_very_long_frame_is_cut(void **state)
{
    char text[3000] = "Traceback (most recent call last):\n  File \"/";
    (void)state;
    memset(text + strlen(text), 'd', 900);
    strcat(text, ".py\", line 5, in ");
    memset(text + strlen(text), 'f', 900);
    strcat(text, "\n    x\nValueError: ");
    memset(text + strlen(text), 'm', 900);
    parse(text);
    assert_true(tb.complete);
    assert_true(strlen(tb.file) == sizeof tb.file - 1);
    assert_true(strlen(tb.origin) < sizeof tb.origin);
    assert_true(strlen(tb.message) == sizeof tb.message - 1);
}

static void what_is_ignored_ended_nobody(void **state)
{
    (void)state;
    nng_text_traceback(
        "Traceback (most recent call last):\n"
        "  File \"/a/train.py\", line 3, in <module>\n"
        "    next(g)\n"
        "RuntimeError: One or more background workers are no longer alive. Exiting.\n"
        "Exception ignored in: <function A.__del__ at 0x7f>\n"
        "Traceback (most recent call last):\n"
        "  File \"/a/augmenter.py\", line 335, in __del__\n"
        "TypeError: 'NoneType' object is not callable\n",
        &tb);
    assert_string_equal(tb.type, "RuntimeError");
    assert_true(tb.complete && tb.last);
    assert_int_equal(tb.line, 3);
    assert_int_equal(tb.after, 0);
}

static void a_word_for_the_shell_is_one_word(void **state)
{
    (void)state;
    assert_string_equal(nng_text_quoted("/data/it's $(id) .npz", 21),
                        "'/data/it'\\''s $(id) .npz'");
    assert_string_equal(nng_text_quoted("", 0), "''");
    char quotes[2000];
    memset(quotes, '\'', sizeof quotes);
    const char *cut = nng_text_quoted(quotes, sizeof quotes);
    assert_true(strlen(cut) < 640 && cut[0] == '\'' && cut[strlen(cut) - 1] == '\'');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_have_units_and_one_decimal),
        cmocka_unit_test(sizes_are_what_a_person_would_type),
        cmocka_unit_test(the_typed_size_is_never_less_than_needed),
        cmocka_unit_test(terminal_codes_do_not_get_through),
        cmocka_unit_test(an_unfinished_sequence_hides_nothing),
        cmocka_unit_test(progress_lines_keep_their_last_part),
        cmocka_unit_test(only_valid_utf8_gets_through),
        cmocka_unit_test(one_line_stays_one_line),
        cmocka_unit_test(output_is_bounded_and_never_cut_inside_a_character),
        cmocka_unit_test(random_bytes_come_out_clean),
        cmocka_unit_test(paths_are_shortened_from_the_left),
        cmocka_unit_test(names_of_signals_and_errors),
        cmocka_unit_test(fields_need_no_terminator),
        cmocka_unit_test(a_plain_traceback),
        cmocka_unit_test(the_frame_shown_is_the_users_own),
        cmocka_unit_test(of_a_chain_the_last_counts_and_the_first_is_kept),
        cmocka_unit_test(unrelated_tracebacks_are_no_chain),
        cmocka_unit_test(background_workers_are_recognised_in_any_order),
        cmocka_unit_test(types_with_modules_and_without_messages),
        cmocka_unit_test(syntax_errors_have_a_frame_without_a_function),
        cmocka_unit_test(noise_between_the_frames_does_no_harm),
        cmocka_unit_test(a_header_that_was_lost_or_an_end_that_was_cut),
        cmocka_unit_test(the_message_may_begin_on_the_next_line),
        cmocka_unit_test(groups_ranks_and_original_tracebacks),
        cmocka_unit_test(faulthandler_is_no_traceback),
        cmocka_unit_test(what_is_said_after_it_counts),
        cmocka_unit_test(random_tracebacks_are_survived),
        cmocka_unit_test(a_very_long_frame_is_cut),
        cmocka_unit_test(what_is_ignored_ended_nobody),
        cmocka_unit_test(a_word_for_the_shell_is_one_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
