/* SPDX-License-Identifier: MIT */
#include "probes_root.h"

static struct nng_stack s;

static const char dump[] = "Epoch 3\n"
                           "Fatal Python error: Segmentation fault\n\n"
                           "Thread 0x00007f0000000001 (most recent call first):\n"
                           "  File \"/usr/lib/python3.11/threading.py\", line 320 in wait\n\n"
                           "Current thread 0x00007f0000000002 (most recent call first):\n"
                           "  File \"/w/a \"b\", line 9 in c.py\", line 12 in inner\n"
                           "  File \"train.py\", line 3 in <module>\n\n"
                           "Thread 0x00007f0000000003 (most recent call first):\n"
                           "  File \"other.py\", line 1 in x\n\n"
                           "Extension modules: numpy.core (total: 1)\n";

static void test_python__current_thread_only(void **st)
{
    (void)st;
    nng_stack_python(dump, &s);
    assert_int_equal(s.n_python, 2);
    assert_string_equal(s.python[0], "/w/a \"b\", line 9 in c.py:12 inner");
    assert_string_equal(s.python[1], "train.py:3 <module>");
}

static void test_python__two_dumps__the_last(void **st)
{
    char text[2048];
    (void)st;
    snprintf(text, sizeof text,
             "%sFatal Python error: Aborted\n\n"
             "Current thread 0x1 [MainThread] (most recent call first):\n"
             "  File \"z.py\", line 77 in f\n",
             dump);
    nng_stack_python(text, &s);
    assert_int_equal(s.n_python, 1);
    assert_string_equal(s.python[0], "z.py:77 f");
}

static void test_python__no_crash_text__none(void **st)
{
    static const char *const none[] = {
        "",
        "Traceback (most recent call last):\n  File \"x.py\", line 3, in f\n",
        "Timeout (0:00:05)!\nCurrent thread 0x1 (most recent call first):\n  File \"x\", line 1 in "
        "f\n",
        "Fatal Python error: Segmentation fault",
        "Fatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n"
        "  File \"x\", line 1 in f\n",
        "Fatal Python error: x\n\nCurrent thread 0x1 (most recent call first):\n"
        "  <no Python frame>\n",
        "Fatal Python error: x\n\nCurrent thread 0x1 (most recent call first):",
        "Fatal Python error: x\n\nCurrent thread 0x1 (most recent call first):\n  File \"x\", line",
        "Fatal Python error: x\n\nCurrent thread 0x1 (most recent call first):\n  File \"x\", line "
        "3 in ",
        "Fatal Python error: x\n\nCurrent thread 0x1 (most recent call first):\n  File \"x\n"};
    (void)st;
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        nng_stack_python(none[i], &s);
        assert_int_equal(s.n_python, 0);
    }
}

static void test_python__long_names_and_many_frames__bounded(void **st)
{
    static char text[40000];
    size_t n;
    (void)st;
    n = (size_t)snprintf(text, sizeof text, "Fatal Python error: x\n\nCurrent thread 0x1 (m):\n");
    for (int i = 0; i < 40; i++)
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "  File \"/%0300d/end.py\", line %d in f%0200d\n", 0, i, 7);
    nng_stack_python(text, &s);
    assert_int_equal(s.n_python, 16);
    assert_true(strlen(s.python[0]) < sizeof s.python[0]);
    assert_int_equal(strncmp(s.python[0], "...", 3), 0);
    assert_non_null(strstr(s.python[15], "/end.py:15 f"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_python__current_thread_only),
        cmocka_unit_test(test_python__two_dumps__the_last),
        cmocka_unit_test(test_python__no_crash_text__none),
        cmocka_unit_test(test_python__long_names_and_many_frames__bounded),
    };
    return cmocka_run_group_tests_name("probes: Python frames", tests, NULL, NULL);
}
