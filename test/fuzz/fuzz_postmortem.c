/* SPDX-License-Identifier: MIT
 *
 * `nnguard report` on spoilt journals, all the way: model, judgement, causes, words. Nothing may crash,
 * and whatever the journal says, what is shown is clean.
 */
#include "spoil.h"

#include "shim/monitor/monitor.h"
#include "shim/report/part.h"
#include <jansson.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One pass of the cleaner changes nothing in a text that is clean. */
static void must_be_clean(const char *text)
{
    size_t n = strlen(text);
    char *clean = malloc(n + 1);
    MUST(clean);
    MUST(nng_text_clean(clean, n + 1, text, n) == n);
    MUST(!memcmp(clean, text, n));
    free(clean);
}

static void show(const struct nng_run *r)
{
    char out[NNG_BLOCK_MAX + 1];
    struct nng_style s = {NNG_EN, false, true};
    for (int zh = 0; zh < 2; zh++) {
        s.lang = zh ? NNG_ZH : NNG_EN;
        for (int i = 0; i < r->n_incidents; i++) {
            size_t n = nng_report_block(out, r, &r->incident[i], &s);
            MUST(n && n <= NNG_BLOCK_MAX);
            out[n] = 0;
            must_be_clean(out);
        }
        out[nng_report_closing(out, r, &s)] = 0;
        must_be_clean(out);
    }
    char *text = nng_report_text(r, &s), *json = nng_report_json(r);
    MUST(text && json);
    must_be_clean(text);
    json_t *o = json_loads(json, 0, NULL);
    MUST(o);
    json_decref(o);
    free(text);
    free(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct nng_run r;
    spoil_init();
    spoil_apply(data, size);
    memset(&r, 0, sizeof r);
    if (!nng_monitor_postmortem(spoil_dir, &r)) {
        show(&r);
        free(r.incident);
    }
    spoil_undo();
    return 0;
}
