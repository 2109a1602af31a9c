/* SPDX-License-Identifier: MIT
 *
 * The words on the screen: block, closing block, reminder; style; limits; hostile text.
 */
#include "report_sample.h"

static const struct nng_style colored = {NNG_EN, true, true};
static const struct nng_style ascii = {NNG_ZH, false, false};

/* ---- the block
 * ----------------------------------------------------------------------------------- */

static void test_block__death__golden(void **state)
{
    (void)state;
    assert_string_equal(
        block(&plain),
        "nnguard: worker 3 of 6 died (pid 4711, SIGBUS): /dev/shm is full\n"
        "nnguard:   its size is 64.0 MiB, 0 B are free; a batch needs 16.1 MiB\n"
        "nnguard:   not the OOM killer: its count stayed at 0\n"
        "nnguard: Fix    docker run --shm-size=1g ...  (6 workers need 0.6 GiB here)\n"
        "nnguard: Else   nnUNet_n_proc_DA=1 ...        fits 64 MiB; epochs take longer\n"
        "nnguard: certain; details: /tmp/nnguard-1000/20261124T140301Z-node7-4702/report.txt\n");
}

static void test_block__chinese__golden(void **state)
{
    (void)state;
    assert_string_equal(
        block(&chinese),
        "nnguard: 6 个工作进程中的第 3 个已死亡(pid 4711,SIGBUS):/dev/shm 已满\n"
        "nnguard:   容量 64.0 MiB，剩余 0 B；一批需要 16.1 MiB\n"
        "nnguard:   并非 OOM：其计数仍为 0\n"
        "nnguard: 解决   docker run --shm-size=1g ...  (此处 6 个进程共需 0.6 GiB)\n"
        "nnguard: 变通   nnUNet_n_proc_DA=1 ...        能放进 64 MiB;每个 epoch 更慢\n"
        "nnguard: 确定;详情:/tmp/nnguard-1000/20261124T140301Z-node7-4702/report.txt\n");
}

static void test_block__who(void **state)
{
    (void)state;
    struct nng_evidence *ev = &incidents[0].ev;
    ev->who.rank = 2;
    assert_has(block(&plain), "worker 3 of 6 died (pid 4711, rank 2, SIGBUS): ");
    ev->who.rank = -1;
    ev->who.ordinal = 0;
    ev->status = (struct nng_status){.known = true, .code = 3};
    assert_has(block(&plain), "nnguard: a worker died (pid 4711, exit status 3): ");
    ev->status.known = false;
    assert_has(block(&plain), "nnguard: a worker died (pid 4711): ");
    ev->who.role = NNG_ROLE_TRAINER;
    ev->status = (struct nng_status){.known = true, .signal = 9};
    assert_has(block(&plain), "nnguard: the trainer was killed (pid 4711, SIGKILL): ");
    words(&incidents[0].verdict.why, "killed (SIGKILL) by something outside this run", "");
    assert_has(block(&plain), "nnguard: the trainer died (pid 4711): killed (SIGKILL) by ");
    ev->kind = NNG_K_FAILURE;
    assert_has(block(&plain), "nnguard: the trainer failed (pid 4711");
    ev->kind = NNG_K_STALL;
    assert_has(block(&plain), "nnguard: training may stand still from here on: killed");
}

static void test_block__not_certain__says_what_is_missing(void **state)
{
    (void)state;
    struct nng_verdict *v = &incidents[0].verdict;
    v->confidence = NNG_LIKELY;
    words(&v->doubt, "certain if the host's kernel log shows it", "");
    run.dir[0] = 0;
    assert_has(block(&plain), "nnguard: likely: certain if the host's kernel log shows it\n"
                              "nnguard: no folder could be written");
    v->confidence = NNG_UNKNOWN;
    assert_has(block(&plain), "nnguard: unknown: ");
    assert_has(block(&plain), "nnguard: Next   docker run");
    assert_has_not(block(&plain), "Fix");
}

static void test_block__long_doubt__word_stays(void **state)
{
    (void)state;
    struct nng_verdict *v = &incidents[0].verdict;
    v->confidence = NNG_POSSIBLE;
    memset(v->doubt.en, 'd', sizeof v->doubt.en - 1);
    for (size_t i = 9; i < sizeof v->doubt.en - 1; i += 10)
        v->doubt.en[i] = ' ';
    assert_has(block(&plain), "nnguard: possible: ddd");
    assert_has(block(&plain), "nnguard: details: /tmp/");
}

static void test_block__advice__at_most_three_and_ten_lines(void **state)
{
    (void)state;
    struct nng_verdict *v = &incidents[0].verdict;
    while (v->n_fix < NNG_FIXES)
        add_fix(v, true, "some_command --with a long tail of arguments nnUNetv2_train 1 2d 0",
                "a remark that can never stand on the same line as this command", "");
    const char *text = block(&plain);
    int lines = 0, advice = 0;
    for (const char *p = text; *p; p = strchr(p, '\n') + 1) {
        lines++;
        advice += !strncmp(p, "nnguard: Fix ", 13) || !strncmp(p, "nnguard: Else", 13);
    }
    assert_true(lines <= 10);
    assert_true(advice <= 3);
}

static void test_block__repeated__counted(void **state)
{
    (void)state;
    incidents[0].count = 12;
    incidents[0].last_time_ns = 1070 * SECOND;
    assert_has(block(&plain), "nnguard:   seen 12 times, last at 14:04:11\n");
}

static void test_block__where__shortened_from_the_left(void **state)
{
    (void)state;
    struct nng_stack *st = &incidents[0].ev.stack;
    st->n_python = 3;
    SET(st->python[0], "/usr/lib/python3/dist-packages/torch/storage.py:418 _new_shared");
    SET(st->python[1], "/usr/lib/python3.11/multiprocessing/queues.py:244 _feed");
    SET(st->python[2], "/x/lib/python3.11/site-packages/batchgenerators/dataloading/"
                       "nondet_multi_threaded_augmenter.py:71 producer");
    assert_has(block(&plain), "nnguard:   in     torch/storage.py:418 _new_shared\n"
                              "nnguard:          <-  batchgenerators/…/"
                              "nondet_multi_threaded_augmenter.py:71 producer\n");
    /* behind the worker's entry lies the trainer's stack */
    SET(st->python[1], "/usr/lib/python3.11/multiprocessing/process.py:108 run");
    assert_has_not(block(&plain), "<-");
    words(&incidents[0].verdict.proof[0], "raised in torch/storage.py:418 _new_shared", "");
    st->n_python = 1;
    assert_has_not(block(&plain), "  in  "); /* said already */
    st->n_python = 0;
    st->n = 1;
    st->culprit = 0;
    SET(st->frame[0].module, "/opt/lib/libblosc2.so.2");
    SET(st->frame[0].symbol, "blosc_d");
    st->frame[0].offset = 0x1234;
    assert_has(block(&plain), "nnguard:   in     blosc_d  (libblosc2.so.2+0x1234)\n");
}

static void test_block__colour__first_line_and_fix_only(void **state)
{
    (void)state;
    const char *text = block(&colored);
    assert_has(text, "nnguard: \033[1;31mworker 3 of 6");
    assert_has(text, "is full\033[0m\n");
    assert_has(text, "nnguard: \033[32mFix ");
    int n = 0;
    for (const char *p = text; (p = strchr(p, 033)); p++)
        n++;
    assert_int_equal(n, 4);
}

static void test_block__no_utf8__ascii_and_english(void **state)
{
    (void)state;
    words(&incidents[0].verdict.why, "“quoted” … 5 × 3 é 汉", "中文");
    const char *text = block(&ascii);
    assert_has(text, "\"quoted\" ... 5 x 3 ? ?\n");
    for (const char *p = text; *p; p++)
        assert_true((unsigned char)*p < 128);
}

static void test_block__proof__wrapped_at_100_columns(void **state)
{
    (void)state;
    words(&incidents[0].verdict.proof[0],
          "its size is 64.0 MiB, 0 B are free; this run's 6 workers hold 63.9 MiB of it; a batch "
          "needs "
          "16.1 MiB and there were 214 of them",
          "容量为六十四兆字节剩余零字节本次训练的六个工作进程占用六十三点九兆字节放不下的这一批需要"
          "十六点一兆字节因此必须增大容量或减少进程数");
    for (int lang = 0; lang < 2; lang++) {
        struct nng_style s = {lang ? NNG_ZH : NNG_EN, false, true};
        char text[NNG_BLOCK_MAX + 1];
        strcpy(text, block(&s));
        for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
            assert_true(nng_columns(line) <= NNG_COLUMNS);
    }
}

/* ---- limits and hostile text
 * ---------------------------------------------------------------------- */

static void fill(char *field, size_t n)
{
    memset(field, 'x', n - 1);
    field[n - 1] = 0;
}

static void fill_zh(struct nng_words *w)
{
    fill(w->en, sizeof w->en);
    for (size_t i = 0; i + 3 < sizeof w->zh; i += 3)
        memcpy(w->zh + i, "汉", 4);
}

static void test_block__absurdly_long__fits_and_keeps_the_important(void **state)
{
    (void)state;
    struct nng_incident *i = &incidents[0];
    struct nng_verdict *v = &i->verdict;
    i->count = 3;
    fill(run.dir, sizeof run.dir);
    fill(i->ev.who.name, sizeof i->ev.who.name);
    fill_zh(&v->why);
    fill_zh(&v->short_why);
    fill_zh(&v->doubt);
    v->confidence = NNG_LIKELY;
    v->n_proof = NNG_PROOFS;
    for (int k = 0; k < NNG_PROOFS; k++)
        fill_zh(&v->proof[k]);
    v->n_fix = NNG_FIXES;
    for (int k = 0; k < NNG_FIXES; k++) {
        fill(v->fix[k].command, sizeof v->fix[k].command);
        fill_zh(&v->fix[k].text);
        fill_zh(&v->fix[k].cost);
    }
    i->ev.stack.n_python = 16;
    for (int k = 0; k < 16; k++)
        fill(i->ev.stack.python[k], sizeof i->ev.stack.python[k]);
    for (int k = 0; k < 8; k++) {
        struct nng_style s = {k & 1 ? NNG_ZH : NNG_EN, k & 2, k & 4};
        const char *text = block(&s);
        bool zh = s.lang == NNG_ZH && s.utf8;
        assert_has(text, zh ? "已死亡" : "died (pid");
        assert_has(text, zh ? "解决" : "Fix ");
        assert_has(text, zh ? "很可能" : "likely");
        text = closing(&s);
        assert_has(text, zh ? "解决" : "Fix ");
    }
}

static void test_block__hostile_text__cannot_leave_its_line(void **state)
{
    (void)state;
    static const char evil[] = "a\033[2J\033]0;title\007b\rc\nnnguard: forged\tx"
                               "\xe2\x80\xae"
                               "bidi\xff\xfe\xc0\xaf\xc2\x9b"
                               "31m\x7f";
    struct nng_incident *i = &incidents[0];
    SET(i->verdict.why.en, evil);
    SET(i->verdict.proof[0].en, evil);
    SET(i->verdict.fix[0].command, evil);
    SET(i->verdict.fix[0].text.en, evil);
    SET(run.dir, evil);
    i->ev.who.role = NNG_ROLE_HELPER;
    SET(i->ev.who.name, evil);
    i->ev.stack.n_python = 1;
    SET(i->ev.stack.python[0], evil);
    const char *text = block(&plain); /* the checks are in there */
    assert_has_not(text, "\033");
    assert_has_not(text, "\r");
    assert_has_not(text, "\xe2\x80\xae");
    assert_has_not(text, "\nnnguard: forged");
    closing(&plain);
}

static void test_clean__secrets__masked(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"password=hunter2 next", "password=*** next"},
        {"WANDB_API_KEY: abcdef", "WANDB_API_KEY: ***"},
        {"--token 'a b' x", "--token '***' x"},
        {"train.py --password hunter2 --lr 1", "train.py --password *** --lr 1"},
        {"--hf_token=abcd --x", "--hf_token=*** --x"},
        {"--token --next 1", "--token --next 1"},
        {"--tokenizer bert --max-tokens 512", "--tokenizer bert --max-tokens 512"},
        {"an unexpected token 'x'", "an unexpected token 'x'"},
        {"Authorization: token ghp_abcd", "Authorization: token ***"},
        {"{\"Authorization\": \"Token abcd\", \"x\": 1}",
         "{\"Authorization\": \"Token ***\", \"x\": 1}"},
        {"curl -H 'Authorization: AWS4 Credential=a, Signature=b' http://h",
         "curl -H 'Authorization: ***' http://h"},
        {"{\\\"token\\\": \\\"a b\\\", 1}", "{\\\"token\\\": \\\"***\\\", 1}"},
        {"headers={'token': 'Bearer a.b'}", "headers={'token': 'Bearer ***'}"},
        {"WANDB_KEY=abcdef x", "WANDB_KEY=*** x"},
        {"PASSWORD=a,b;c&d'e f", "PASSWORD=*** f"},
        {"connect(password='a,\\'b c', x=1)", "connect(password='***', x=1)"},
        {"(api_key=abcd), then", "(api_key=***), then"},
        {"\"api_key\" : \"abcd\"", "\"api_key\" : \"***\""},
        {"password is abcd", "password is ***"},
        {"postgres://u:se/c@ret@h/db", "postgres://u:***@h/db"},
        {"http://host:8080/a@2x.png", "http://host:8080/a@2x.png"},
        {"https://h/a:b@c", "https://h/a:b@c"},
        {"ssh://git@host/x.git", "ssh://git@host/x.git"},
        {"https://abcdefghij0123456789@host/x.git", "https://***@host/x.git"},
        {"sk-ant-ABCDEFGH12 next", "sk-*** next"},
        {"key AKIAIOSFODNN7EXAMPLE", "key AKIA***"},
        {"ghp_16C7e42F292c6912E7 hf_AbCdEfGh01", "ghp_*** hf_***"},
        {"hf_hub_download sk-learn-contrib AKIA", "hf_hub_download sk-learn-contrib AKIA"},
        {"passwd=", "passwd="},
        {"password", "password"},
        {"'secret': 'abc', 'x': 1", "'secret': '***', 'x': 1"},
        {"Authorization: Bearer abc.def", "Authorization: Bearer ***"},
        {"https://user:pw12@host/x", "https://user:***@host/x"},
        {"http://host:8080/x", "http://host:8080/x"},
        {"KeyError: 'case_001'", "KeyError: 'case_001'"},
        {"max_tokens=512", "max_tokens=512"},
        {"password=", "password="},
    };
    char out[200];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nng_clean(out, sizeof out, cases[i].in);
        assert_string_equal(out, cases[i].out);
    }
}

/* ---- the closing block
 * ----------------------------------------------------------------------------- */

static void test_closing__failed__golden(void **state)
{
    (void)state;
    assert_string_equal(
        closing(&plain),
        "nnguard: this run failed because /dev/shm was full (worker 3 of 6, 14:03:07). Everything "
        "after "
        "that line is a consequence.\n"
        "nnguard: Fix    docker run --shm-size=1g ...  (6 workers need 0.6 GiB here)\n"
        "nnguard: certain; details: /tmp/nnguard-1000/20261124T140301Z-node7-4702/report.txt\n");
    assert_has(closing(&chinese), "nnguard: 本次训练失败,原因:/dev/shm 已满(6 "
                                  "个工作进程中的第 3 个,14:03:07)。此后的输出都是其后果。\n");
}

static void test_closing__exit_0__does_not_say_failed(void **state)
{
    (void)state;
    run.exit.code = 0;
    for (run.root = -1; run.root <= 0; run.root++) {
        assert_has(closing(&plain),
                   "nnguard: this run ended without an error, although worker 3 of 6 "
                   "died at 14:03:07: /dev/shm is full\n");
        assert_has_not(closing(&plain), "failed");
    }
}

static void test_closing__not_tied__does_not_blame(void **state)
{
    (void)state;
    run.root = -1;
    assert_has(closing(&plain),
               "this run ended with exit status 1; whether that comes from the death "
               "of worker 3 of 6 at 14:03:07 is not known: ");
    run.exit = (struct nng_status){.known = true, .signal = 2};
    assert_has(closing(&plain),
               "this run was interrupted; before that, at 14:03:07 (worker 3 of 6): ");
}

static void test_closing__less_than_certain__says_so(void **state)
{
    (void)state;
    struct nng_verdict *v = &incidents[0].verdict;
    v->confidence = NNG_LIKELY;
    assert_has(closing(&plain), "this run most likely failed because ");
    v->confidence = NNG_POSSIBLE;
    assert_has(closing(&plain), "this run failed, possibly because ");
    v->confidence = NNG_UNKNOWN;
    assert_has(closing(&plain), "the cause could not be seen from here: ");
    assert_has_not(closing(&plain), "consequence");
    assert_has_not(closing(&plain), "Fix");
}

static void test_closing__no_short_form__names_the_process(void **state)
{
    (void)state;
    struct nng_verdict *v = &incidents[0].verdict;
    words(&v->why, "it sent itself SIGKILL", "");
    words(&v->short_why, "", "");
    assert_has(closing(&plain),
               "this run failed because worker 3 of 6 died: it sent itself SIGKILL "
               "(14:03:07). Everything after that line is a consequence.\n");
    run.n_incidents = 2; /* of which one is not */
    assert_has_not(closing(&plain), "Everything");
}

static void test_closing__standstill_ended_by_hand__names_it(void **state)
{
    (void)state;
    incidents[0].ev.kind = NNG_K_STALL;
    run.exit = (struct nng_status){.known = true, .code = 130};
    assert_has(closing(&plain), "nnguard: this run stood still because /dev/shm was full (");
}

static void test_closing__more_incidents__mentioned(void **state)
{
    (void)state;
    run.n_incidents = 3;
    run.n_beyond = 2;
    assert_has(closing(&plain), "nnguard: 4 more incidents are in the details\n");
}

static void test_closing__nothing_known__no_crash(void **state)
{
    (void)state;
    run.n_incidents = 0;
    run.root = -1;
    assert_has(closing(&plain), "nothing went wrong");
    run.ended_silently = true;
    assert_has(closing(&plain), "ended without a word");
    run.root = 70; /* beyond the array */
    closing(&plain);
}

static void test_reminder__one_line(void **state)
{
    (void)state;
    char out[NNG_BLOCK_MAX];
    incidents[0].ev.kind = NNG_K_STALL;
    incidents[0].count = 214;
    run.start_boot_ns = nng_boot_now() - 3000 * SECOND;
    incidents[0].ev.time_ns = run.start_boot_ns + 6 * SECOND;
    run.end_boot_ns = 0;
    const char *text = checked(out, nng_report_reminder(out, &run, &incidents[0], &plain), false);
    assert_has(text,
               "nnguard: training still stands still (49 min, since 14:03:07): /dev/shm is full; "
               "seen 214 times; details: ");
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
}

/* ---- style
 * ------------------------------------------------------------------------------------------ */

static void test_style__from_environment(void **state)
{
    (void)state;
    static const struct {
        const char *lang, *lc_all, *lang_env, *color;
        enum nng_lang want;
        bool utf8, want_color;
    } cases[] = {
        {NULL, NULL, "en_US.UTF-8", NULL, NNG_EN, true, false},
        {NULL, NULL, "zh_CN.UTF-8", NULL, NNG_ZH, true, false},
        {NULL, NULL, "zh_CN.GB18030", NULL, NNG_ZH, false, false},
        {NULL, "C", "zh_CN.UTF-8", NULL, NNG_EN, false, false},
        {"auto", NULL, "zh_TW.utf8", NULL, NNG_ZH, true, false},
        {"zh", NULL, NULL, NULL, NNG_ZH, true, false},
        {"en", NULL, "zh_CN.UTF-8", "always", NNG_EN, true, true},
        {NULL, NULL, NULL, "never", NNG_EN, false, false},
        {"klingon", NULL, "C.UTF-8", NULL, NNG_EN, true, false},
    };
    static const char *const all[] = {"NNGUARD_LANG", "NNGUARD_COLOR", "LC_ALL",
                                      "LC_MESSAGES",  "LC_CTYPE",      "LANG"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct nng_style s;
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            unsetenv(all[k]);
        if (cases[i].lang)
            setenv("NNGUARD_LANG", cases[i].lang, 1);
        if (cases[i].lc_all)
            setenv("LC_ALL", cases[i].lc_all, 1);
        if (cases[i].lang_env)
            setenv("LANG", cases[i].lang_env, 1);
        if (cases[i].color)
            setenv("NNGUARD_COLOR", cases[i].color, 1);
        nng_style_from_env(&s, -1);
        assert_int_equal(s.lang, cases[i].want);
        assert_int_equal(s.utf8, cases[i].utf8);
        assert_int_equal(s.color, cases[i].want_color);
    }
}

/* ---- words
 * ------------------------------------------------------------------------------------------- */

/* Both languages take the same arguments, and none is missing. */
static void test_words__every_phrase__in_both_languages(void **state)
{
    (void)state;
    for (int w = 0; w < W_COUNT; w++) {
        const char *en = nng_word((enum nng_word)w, NNG_EN),
                   *zh = nng_word((enum nng_word)w, NNG_ZH);
        assert_true(en && *en && zh && *zh);
        for (char mark[] = "{1}"; mark[1] <= '9'; mark[1]++)
            if (!strstr(en, mark) != !strstr(zh, mark))
                fail_msg("%s differs in \"%s\"", mark, en);
    }
}

static void test_say__too_small__cut_and_terminated(void **state)
{
    (void)state;
    char out[10];
    SAY(out, NNG_EN, W_WORKER_OF, "123456789", "2");
    assert_string_equal(out, "worker 12");
}

#define RUN_TEST(f) cmocka_unit_test_setup(f, sample_run)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN_TEST(test_block__death__golden),
        RUN_TEST(test_block__chinese__golden),
        RUN_TEST(test_block__who),
        RUN_TEST(test_block__not_certain__says_what_is_missing),
        RUN_TEST(test_block__long_doubt__word_stays),
        RUN_TEST(test_block__advice__at_most_three_and_ten_lines),
        RUN_TEST(test_block__repeated__counted),
        RUN_TEST(test_block__where__shortened_from_the_left),
        RUN_TEST(test_block__colour__first_line_and_fix_only),
        RUN_TEST(test_block__no_utf8__ascii_and_english),
        RUN_TEST(test_block__proof__wrapped_at_100_columns),
        RUN_TEST(test_block__absurdly_long__fits_and_keeps_the_important),
        RUN_TEST(test_block__hostile_text__cannot_leave_its_line),
        RUN_TEST(test_clean__secrets__masked),
        RUN_TEST(test_closing__failed__golden),
        RUN_TEST(test_closing__exit_0__does_not_say_failed),
        RUN_TEST(test_closing__not_tied__does_not_blame),
        RUN_TEST(test_closing__less_than_certain__says_so),
        RUN_TEST(test_closing__no_short_form__names_the_process),
        RUN_TEST(test_closing__standstill_ended_by_hand__names_it),
        RUN_TEST(test_closing__more_incidents__mentioned),
        RUN_TEST(test_closing__nothing_known__no_crash),
        RUN_TEST(test_reminder__one_line),
        RUN_TEST(test_style__from_environment),
        RUN_TEST(test_words__every_phrase__in_both_languages),
        RUN_TEST(test_say__too_small__cut_and_terminated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
