/* SPDX-License-Identifier: MIT
 *
 * The journal's reader on spoilt journals: whatever the file says, what is handed out keeps the promises
 * of journal/snapshot.h, and reading ends.
 */
#include "spoil.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_ring(const struct nng_view *v, enum nng_ring_id ring)
{
    struct nng_cursor c;
    struct nng_got g;
    unsigned n = 0;
    nng_cursor_init(&c, v, ring);
    while (nng_cursor_next(&c, v, true, &g)) {
        MUST(++n <= NNG_EVENTS_N);
        MUST(g.rec.type > NNG_R_NONE && g.rec.type < NNG_R_COUNT);
        MUST(g.rec.call < NNG_C_COUNT && g.rec.proc <= NNG_PROCS_N);
        MUST(g.rec.text_len <= NNG_TEXT && strlen(g.text) <= g.rec.text_len);
    }
    MUST(!nng_cursor_next(&c, v, true, &g));
}

static void read_procs(const struct nng_view *v)
{
    static struct nng_proc p;
    char tail[NNG_TAIL_SIZE + 1];
    for (unsigned i = 0; i < 6; i++) {
        if (!nng_view_proc(v, i, &p))
            continue;
        MUST(strlen(p.comm) < sizeof p.comm && strlen(p.cmdline) < sizeof p.cmdline);
        MUST(strlen(p.fault.map_path) < NNG_PATH && strlen(p.fault.ip_path) < NNG_PATH);
        MUST(strlen(p.fault.abort_msg) < NNG_PATH && strlen(p.fault.sender_name) < 16);
        MUST(p.fault.state <= NNG_F_DYING && p.fault.size_source <= NNG_SZ_RECORDED);
        MUST(nng_proc_tail(&p, tail) == strlen(tail));
        for (unsigned k = 0; k <= NNG_FILES_N; k++)
            MUST(!nng_proc_file(&p, k) || strlen(nng_proc_file(&p, k)) < NNG_PATH);
        MUST(nng_view_find(v, p.pid) >= 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nng_view v;
    spoil_init();
    spoil_apply(data, size);
    if (!nng_view_open(&v, spoil_path, -1, false)) {
        MUST(strlen(v.hdr.host) < sizeof v.hdr.host &&
             strlen(v.hdr.run_dir) < sizeof v.hdr.run_dir);
        MUST(!v.hdr.command[sizeof v.hdr.command - 2] && !v.hdr.env[sizeof v.hdr.env - 2]);
        for (int ring = NNG_RING_EVENTS; ring <= NNG_RING_SAMPLES; ring++)
            read_ring(&v, (enum nng_ring_id)ring);
        read_procs(&v);
        nng_view_close(&v);
    }
    spoil_undo();
    return 0;
}
