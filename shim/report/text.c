/* SPDX-License-Identifier: MIT
 *
 * report.txt: the block, then everything it stands on, for the person who opens an issue or asks
 * the administrator. It can be pasted as a whole: every line is cleaned and secrets are masked on
 * the way out (nng_out_line).
 */
#include "part.h"

#include "../journal/snapshot.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void heading(struct nng_out *o, const char *text)
{
    nng_out_raw(o, "\n", 1);
    nng_out_line(o, "%s", text);
}

/* Text with line breaks, each line behind a bar. */
static void quote(struct nng_out *o, const char *text)
{
    while (*text) {
        size_t n = strcspn(text, "\n");
        nng_out_line(o, "  | %.*s", (int)(n < 1500 ? n : 1500), text);
        text += n + (text[n] == '\n');
    }
}

static void lines(struct nng_out *o, const struct nng_lines *l)
{
    for (int i = 0; i < l->n; i++)
        nng_out_line(o, "%s", l->line[i].text);
}

static void head(struct nng_out *o, const struct nng_run *r, enum nng_lang lang)
{
    char line[1400], at[48], pid[16], status[160], command[1100];
    nng_out_line(o, "%s", SAY(line, lang, W_T_TITLE, NNG_VERSION_STRING, r->id));
    snprintf(pid, sizeof pid, "%d", r->root_pid);
    nng_say_time(at, sizeof at, r, r->start_boot_ns, NNG_CLOCK_DATE);
    nng_out_line(o, "  %s", SAY(line, lang, W_T_STARTED, at, r->host, pid));
    if (r->end_boot_ns) {
        nng_say_status(status, sizeof status, &r->exit, lang);
        if (!status[0])
            snprintf(status, sizeof status, "%s", nng_word(W_END_UNKNOWN, lang));
        else if (r->exit.inferred)
            strncat(status, nng_word(W_INFERRED, lang), sizeof status - strlen(status) - 1);
        nng_say_time(at, sizeof at, r, r->end_boot_ns, NNG_CLOCK_DATE);
        nng_out_line(o, "  %s", SAY(line, lang, W_T_ENDED, at, status));
    } else {
        nng_out_line(o, "  %s", nng_word(r->ended_silently ? W_T_SILENT_END : W_T_RUNS_ON, lang));
    }
    size_t len = 0;
    command[0] = 0;
    bool secret = false;
    for (const char *p = r->command; p < r->command + sizeof r->command - 1 && *p && len < 1024;
         p += strnlen(p, sizeof r->command) + 1) {
        len += (size_t)snprintf(command + len, sizeof command - len, "%s%s", len ? " " : "",
                                secret ? "***" : p);
        secret = nng_secret_flag(p);
    }
    nng_out_line(o, "  %s", SAY(line, lang, W_T_COMMAND, command));
}

/* ---- one incident
 * ---------------------------------------------------------------------------------- */

/* All fixes; the block may have had room for three lines only. */
static void advice(struct nng_out *o, const struct nng_verdict *v, enum nng_lang lang)
{
    char price[600];
    if (v->n_fix <= 0)
        return;
    heading(o, nng_word(W_T_ADVICE, lang));
    for (int i = 0; i < v->n_fix && i < NNG_FIXES; i++) {
        const struct nng_fix *f = &v->fix[i];
        const char *text = nng_pick(&f->text, lang), *cost = nng_pick(&f->cost, lang);
        const char *first = f->command[0] ? f->command : text;
        nng_out_line(o, "  %d. %s", i + 1, first);
        if (f->command[0] && *text)
            nng_out_line(o, "     %s", text);
        if (*cost)
            nng_out_line(o, "     %s", SAY(price, lang, W_T_COST, cost));
    }
}

static void evidence(struct nng_out *o, const struct nng_verdict *v, enum nng_lang lang)
{
    if (v->n_fact <= 0 && v->n_proof <= 3)
        return;
    heading(o, nng_word(W_T_EVIDENCE, lang));
    for (int i = 3; i < v->n_proof && i < NNG_PROOFS; i++)
        nng_out_line(o, "  %s", nng_pick(&v->proof[i], lang));
    for (int i = 0; i < v->n_fact && i < NNG_FACTS; i++) {
        const struct nng_fact *f = &v->fact[i];
        char value[300];
        if (f->type == NNG_FT_INT)
            snprintf(value, sizeof value, "%lld", (long long)f->num);
        else
            snprintf(value, sizeof value, "%s", f->type == NNG_FT_STR ? f->str : "?");
        nng_out_line(o, "  %-28s %-20s (%s)", f->name, value, f->source);
    }
}

static void consequences(struct nng_out *o, const struct nng_incident *i, enum nng_lang lang)
{
    char status[64];
    if (i->n_consequences <= 0)
        return;
    heading(o, nng_word(W_T_CONSEQUENCES, lang));
    for (int k = 0; k < i->n_consequences && k < NNG_CONSEQUENCES; k++) {
        const struct nng_consequence *c = &i->consequence[k];
        struct nng_status st = {.known = true, .signal = c->signal, .code = c->code};
        nng_say_status(status, sizeof status, &st, lang);
        nng_out_line(o, "  pid %d  %s  %s", c->pid, status, nng_pick(&c->why, lang));
    }
}

static void stack(struct nng_out *o, const struct nng_stack *st, enum nng_lang lang)
{
    char line[200];
    if (st->n_python > 0) {
        heading(o, nng_word(W_T_PYTHON, lang));
        for (int i = 0; i < st->n_python && i < 16; i++)
            nng_out_line(o, "  %s", st->python[i]);
    }
    if (!st->taken && st->n <= 0 && !st->why_not[0])
        return;
    heading(o, nng_word(W_T_NATIVE, lang));
    for (int i = 0; i < st->n && i < 48; i++)
        nng_out_line(o, "  %2d  %s%s%s+0x%llx%s%s", i, st->frame[i].symbol,
                     st->frame[i].symbol[0] ? "  " : "", st->frame[i].module,
                     (unsigned long long)st->frame[i].offset, "",
                     i == st->culprit ? nng_word(W_T_CULPRIT, lang) : "");
    if (st->why_not[0])
        nng_out_line(o, "  %s", SAY(line, lang, W_T_NO_STACK, st->why_not));
}

static void traceback(struct nng_out *o, const struct nng_traceback *tb, enum nng_lang lang)
{
    if (!tb->present || !tb->type[0])
        return;
    heading(o, nng_word(W_T_TRACEBACK, lang));
    nng_out_line(o, "  %s%s%s", tb->type, tb->message[0] ? ": " : "", tb->message);
    if (tb->file[0])
        nng_out_line(o, "  %s:%d %s", tb->file, tb->line, tb->func);
    if (tb->origin[0])
        nng_out_line(o, "  %s", tb->origin);
}

static void limit(struct nng_out *o, const char *name, uint64_t soft, uint64_t hard,
                  enum nng_lang lang)
{
    char a[24], b[24];
    const char *none = nng_word(W_T_UNLIMITED, lang);
    snprintf(a, sizeof a, "%llu", (unsigned long long)soft);
    snprintf(b, sizeof b, "%llu", (unsigned long long)hard);
    nng_out_line(o, "  %-12s %s / %s", name, soft == UINT64_MAX ? none : a,
                 hard == UINT64_MAX ? none : b);
}

static void usage(struct nng_out *o, const struct nng_usage *u, int pid, enum nng_lang lang)
{
    static const char *const names[16] = {
        "CPU",     "FSIZE", "DATA",  "STACK",      "CORE",     "RSS",  "NPROC",  "NOFILE",
        "MEMLOCK", "AS",    "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"};
    char line[160], n[16];
    if (!u->valid)
        return;
    snprintf(n, sizeof n, "%d", pid);
    heading(o, SAY(line, lang, W_T_LIMITS, n));
    for (int i = 0; i < 16; i++)
        if (u->rlim_soft[i] != UINT64_MAX || u->rlim_hard[i] != UINT64_MAX)
            limit(o, names[i], u->rlim_soft[i], u->rlim_hard[i], lang);
    if (!u->vm_size) /* its memory was gone already when it was looked at */
        return;
    nng_out_line(o, "  %s: VmSize %s, VmRSS %s, VmHWM %s, threads %u, fds %u, cpu %.1f s",
                 nng_word(W_T_USE, lang), nng_bytes((int64_t)u->vm_size),
                 nng_bytes((int64_t)u->vm_rss), nng_bytes((int64_t)u->vm_hwm), u->threads, u->fds,
                 (double)(u->utime_ns + u->stime_ns) / 1e9);
}

static void process(struct nng_out *o, const struct nng_who *w, enum nng_lang lang)
{
    if (w->pid <= 0)
        return;
    heading(o, nng_word(W_T_PROCESS, lang));
    nng_out_line(o, "  pid %d, ppid %d, %s", w->pid, w->ppid, w->name);
    if (w->cmdline[0])
        nng_out_line(o, "  %s", w->cmdline);
}

static void details(struct nng_out *o, const struct nng_incident *i, enum nng_lang lang)
{
    char line[160], pid[16];
    const struct nng_evidence *ev = &i->ev;
    advice(o, &i->verdict, lang);
    evidence(o, &i->verdict, lang);
    consequences(o, i, lang);
    process(o, &ev->who, lang);
    traceback(o, &ev->tb, lang);
    stack(o, &ev->stack, lang);
    if (ev->tail[0]) {
        snprintf(pid, sizeof pid, "%d", ev->who.pid);
        heading(o, SAY(line, lang, W_T_OUTPUT, pid));
        quote(o, ev->tail);
    }
    if (ev->n_files > 0) {
        heading(o, nng_word(W_T_FILES, lang));
        for (int k = 0; k < ev->n_files && k < (int)NNG_FILES_N; k++)
            nng_out_line(o, "  %s", ev->files[k]);
    }
    if (ev->has_usage)
        usage(o, &ev->usage, ev->who.pid, lang);
}

/* ---- the run
 * ---------------------------------------------------------------------------------------- */

static void timeline(struct nng_out *o, const struct nng_run *r, enum nng_lang lang)
{
    char at[16];
    int order[NNG_TIMELINE];
    int n = nng_moment_order(r, order);
    if (!n)
        return;
    heading(o, nng_word(W_T_TIMELINE, lang));
    for (int i = 0; i < n; i++)
        nng_out_line(o, "  %s  %s",
                     nng_say_time(at, sizeof at, r, r->moment[order[i]].time_ns, NNG_CLOCK_MS),
                     r->moment[order[i]].text);
}

static void machine(struct nng_out *o, const struct nng_run *r, enum nng_lang lang)
{
    static const char *const places[] = {"host", "docker", "kubernetes", "slurm", "apptainer"};
    const struct nng_machine *m = &r->machine;
    const char *place = m->place <= NNG_PL_APPTAINER ? places[m->place] : "?";
    heading(o, nng_word(W_T_MACHINE, lang));
    bool more = m->place_detail[0] && strcmp(m->place_detail, place) != 0;
    nng_out_line(o, "  place        %s%s%s", place, more ? ", " : "", more ? m->place_detail : "");
    if (m->kernel[0])
        nng_out_line(o, "  kernel       %s", m->kernel);
    if (m->libc[0])
        nng_out_line(o, "  libc         %s", m->libc);
    if (m->cpus > 0)
        nng_out_line(o, "  cpus         %d", m->cpus);
    if (r->hostmem.total > 0)
        nng_out_line(o, "  memory       total %s, available %s, swap free %s of %s",
                     nng_bytes(r->hostmem.total), nng_bytes(r->hostmem.available),
                     nng_bytes(r->hostmem.swap_free), nng_bytes(r->hostmem.swap_total));
    if (r->shm.present)
        nng_out_line(o, "  /dev/shm     size %s, free %s, held by this run %s",
                     nng_bytes(r->shm.total), nng_bytes(r->shm.free),
                     nng_bytes(r->shm.held_by_run));
    if (r->rescued.segments) {
        char line[NNG_LINE_MAX];
        nng_say_rescued(line, sizeof line, &r->rescued, lang);
        nng_out_line(o, "  %s", line);
    }
    for (const char *p = m->env; p < m->env + sizeof m->env - 1 && *p;
         p += strnlen(p, sizeof m->env) + 1)
        nng_out_line(o, "  %s", p);
    usage(o, &r->limits, r->root_pid, lang);
}

static void guard(struct nng_out *o, const struct nng_run *r, enum nng_lang lang)
{
    char line[200], a[24], b[24];
    bool any = r->lost_records || r->torn_records;
    for (unsigned i = 0; i < NNG_H_COUNT; i++)
        any = any || r->health[i];
    if (!any)
        return;
    heading(o, nng_word(W_T_GUARD, lang));
    snprintf(a, sizeof a, "%llu", (unsigned long long)r->lost_records);
    snprintf(b, sizeof b, "%llu", (unsigned long long)r->torn_records);
    if (r->lost_records || r->torn_records)
        nng_out_line(o, "  %s", SAY(line, lang, W_T_LOST, a, b));
    for (unsigned i = 0; i < NNG_H_COUNT; i++)
        if (r->health[i])
            nng_out_line(o, "  %llu  %s", (unsigned long long)r->health[i], nng_health_text(i));
}

static void block(struct nng_out *o, const struct nng_run *r, const struct nng_incident *i,
                  enum nng_lang lang)
{
    struct nng_lines l = {.n = 0};
    nng_build_block(&l, r, i, lang);
    nng_out_raw(o, "\n", 1);
    lines(o, &l);
}

static void incidents(struct nng_out *o, const struct nng_run *r, enum nng_lang lang)
{
    char line[160], n[16], at[48];
    int first = r->root >= 0 && r->root < r->n_incidents ? r->root : 0;
    if (r->n_incidents > 0) {
        block(o, r, &r->incident[first], lang);
        details(o, &r->incident[first], lang);
    }
    timeline(o, r, lang);
    for (int i = 0; i < r->n_incidents && i < NNG_INCIDENTS; i++) {
        if (i == first)
            continue;
        nng_say_time(at, sizeof at, r, r->incident[i].ev.time_ns, NNG_CLOCK_MS);
        snprintf(line, sizeof line, "---- %s, %s ----", nng_word(W_T_OTHER, lang), at);
        heading(o, line);
        block(o, r, &r->incident[i], lang);
        details(o, &r->incident[i], lang);
    }
    if (r->n_beyond > 0) {
        snprintf(n, sizeof n, "%d", r->n_beyond);
        heading(o, SAY(line, lang, W_T_BEYOND, n));
    }
}

char *nng_report_text(const struct nng_run *r, const struct nng_style *s)
{
    struct nng_out o = {.ascii = !s->utf8};
    enum nng_lang lang = nng_style_lang(s);
    char line[NNG_LINE_MAX];
    head(&o, r, lang);
    if (r->end_boot_ns || r->ended_silently || r->n_incidents <= 0) {
        nng_say_end(line, sizeof line, r, lang);
        heading(&o, line);
    }
    incidents(&o, r, lang);
    machine(&o, r, lang);
    guard(&o, r, lang);
    if (o.failed) {
        free(o.p);
        return NULL;
    }
    return o.p;
}
