/* SPDX-License-Identifier: MIT
 *
 * A run made by hand, as the monitor would fill it in, for the tests of the reports. The clock is
 * UTC.
 */
#ifndef NNG_TEST_REPORT_SAMPLE_H
#define NNG_TEST_REPORT_SAMPLE_H

#include "shim/report/part.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define SET(field, text) snprintf(field, sizeof(field), "%s", text)
#define SECOND 1000000000ull

static struct nng_run run;
static struct nng_incident incidents[NNG_INCIDENTS];

static inline void words(struct nng_words *w, const char *en, const char *zh)
{
    SET(w->en, en);
    SET(w->zh, zh);
}

static inline struct nng_fix *add_fix(struct nng_verdict *v, bool workaround, const char *command,
                                      const char *en, const char *zh)
{
    struct nng_fix *f = &v->fix[v->n_fix++];
    f->workaround = workaround;
    SET(f->command, command);
    words(&f->text, en, zh);
    return f;
}

static inline void sample_verdict(struct nng_verdict *v)
{
    v->cause = "shm_exhausted";
    v->confidence = NNG_CERTAIN;
    words(&v->why, "/dev/shm is full", "/dev/shm 已满");
    words(&v->short_why, "/dev/shm was full", "/dev/shm 已满");
    v->n_proof = 2;
    words(&v->proof[0], "its size is 64.0 MiB, 0 B are free; a batch needs 16.1 MiB",
          "容量 64.0 MiB，剩余 0 B；一批需要 16.1 MiB");
    words(&v->proof[1], "not the OOM killer: its count stayed at 0", "并非 OOM：其计数仍为 0");
    add_fix(v, false, "docker run --shm-size=1g ...", "6 workers need 0.6 GiB here",
            "此处 6 个进程共需 0.6 GiB");
    struct nng_fix *f = add_fix(v, true, "nnUNet_n_proc_DA=1 ...", "fits 64 MiB", "能放进 64 MiB");
    words(&f->cost, "epochs take longer", "每个 epoch 更慢");
    v->n_fact = 1;
    SET(v->fact[0].name, "devshm.free_bytes");
    SET(v->fact[0].source, "statfs in the faulting process");
}

static inline void sample_who(struct nng_who *w)
{
    w->pid = 4711;
    w->ppid = 4702;
    w->role = NNG_ROLE_WORKER;
    w->ordinal = 3;
    w->of = 6;
    w->rank = -1;
    SET(w->name, "python3");
}

static inline int sample_run(void **state)
{
    (void)state;
    setenv("TZ", "UTC", 1);
    tzset();
    memset(&run, 0, sizeof run);
    memset(incidents, 0, sizeof incidents);
    SET(run.id, "20261124T140301Z-node7-4702");
    SET(run.dir, "/tmp/nnguard-1000/20261124T140301Z-node7-4702");
    SET(run.host, "node7");
    run.root_pid = 4702;
    run.rank = -1;
    memcpy(run.command, "nnUNetv2_train\0001\0002d", 20);
    run.start_real_ns = 1795528981 * SECOND; /* 2026-11-24 14:03:01 */
    run.start_boot_ns = 1000 * SECOND;
    run.end_boot_ns = 1131 * SECOND;
    run.exit.known = true;
    run.exit.code = 1;
    run.incident = incidents;
    run.n_incidents = 1;
    for (int i = 0; i < NNG_INCIDENTS; i++) {
        struct nng_incident *n = &incidents[i];
        n->count = 1;
        n->ev.time_ns = 1006 * SECOND + 123000000u;
        n->ev.status = (struct nng_status){.known = true, .signal = 7};
        n->ev.stack.culprit = -1;
        sample_who(&n->ev.who);
        sample_verdict(&n->verdict);
    }
    return 0;
}

static const struct nng_style plain = {NNG_EN, false, true};
static const struct nng_style chinese = {NNG_ZH, false, true};

/* The block as a string; every promise that holds for all blocks is checked here. */
static inline const char *checked(const char *out, size_t n, bool color)
{
    static char text[NNG_BLOCK_MAX + 1];
    assert_true(n > 0 && n <= NNG_BLOCK_MAX);
    memcpy(text, out, n);
    text[n] = 0;
    assert_int_equal(strlen(text), n);
    assert_int_equal(text[n - 1], '\n');
    for (const char *p = text; *p; p = strchr(p, '\n') + 1)
        assert_memory_equal(p, NNG_PREFIX, strlen(NNG_PREFIX));
    char clean[NNG_BLOCK_MAX + 1];
    nng_text_clean(clean, sizeof clean, text, n);
    if (!color)
        assert_string_equal(clean, text); /* valid UTF-8, no control character */
    return text;
}

static inline const char *block(const struct nng_style *s)
{
    static char out[NNG_BLOCK_MAX];
    return checked(out, nng_report_block(out, &run, &incidents[0], s), s->color);
}

static inline const char *closing(const struct nng_style *s)
{
    static char out[NNG_BLOCK_MAX];
    return checked(out, nng_report_closing(out, &run, s), s->color);
}

#define assert_has(text, part)                                                                     \
    do {                                                                                           \
        if (!strstr(text, part))                                                                   \
            fail_msg("\"%s\" is not in:\n%s", part, text);                                         \
    } while (0)
#define assert_has_not(text, part)                                                                 \
    do {                                                                                           \
        if (strstr(text, part))                                                                    \
            fail_msg("\"%s\" is in:\n%s", part, text);                                             \
    } while (0)

#endif
