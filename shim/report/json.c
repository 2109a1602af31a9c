/* SPDX-License-Identifier: MIT
 *
 * report.json, schema nnguard-report/1 (test/report.schema.json says it in full). Unknown is null.
 * Every string passes the cleaner, which also makes it valid UTF-8: jansson refuses anything else.
 *
 * Out of memory: jansson's *_new functions accept a NULL value and fail, so a failure anywhere
 * leaves something out; `lost` remembers that, and then there is no document at all.
 */
#include "part.h"

#include "../journal/snapshot.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool lost;

static void put(json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, value))
        lost = true;
}

static void push(json_t *array, json_t *value)
{
    if (json_array_append_new(array, value))
        lost = true;
}

static json_t *string_n(const char *s, size_t n)
{
    char raw[2048], clean[2048];
    snprintf(raw, sizeof raw, "%.*s", (int)(n < sizeof raw ? n : sizeof raw - 1), s);
    nng_clean(clean, sizeof clean, raw);
    return json_string(clean);
}

static json_t *string(const char *s)
{
    return string_n(s, strlen(s));
}

/* "" is unknown. */
static json_t *string_or_null(const char *s)
{
    return *s ? string(s) : json_null();
}

static json_t *number(int64_t n)
{
    return json_integer((json_int_t)n);
}

static json_t *number_or_null(int64_t n, bool known)
{
    return known ? number(n) : json_null();
}

/* Sizes: -1 is unknown. */
static json_t *size(int64_t n)
{
    return number_or_null(n, n >= 0);
}

static json_t *words(const char *en, const char *zh)
{
    json_t *o = json_object();
    put(o, "en", string(en));
    put(o, "zh", string(zh));
    return o;
}

static json_t *both(const struct nng_words *w)
{
    return words(nng_pick(w, NNG_EN), nng_pick(w, NNG_ZH));
}

static json_t *when(const struct nng_run *r, uint64_t boot_ns)
{
    char buf[64];
    return boot_ns ? json_string(nng_say_rfc3339(buf, sizeof buf, nng_real_ns(r, boot_ns)))
                   : json_null();
}

/* NUL separated strings up to an empty one, as an array. */
static json_t *list(const char *p, size_t n)
{
    json_t *a = json_array();
    bool secret = false; /* what the argument before said of this one */
    for (const char *end = p + n; p < end && *p;) {
        size_t len = strnlen(p, (size_t)(end - p));
        push(a, secret ? json_string("***") : string_n(p, len));
        secret = p + len < end && nng_secret_flag(p);
        p += len + 1;
    }
    return a;
}

/* ---- the run and its machine
 * ------------------------------------------------------------------------ */

static json_t *status(const struct nng_status *st)
{
    json_t *o = json_object();
    bool by_signal = st->known && st->signal;
    put(o, "signal", number_or_null(st->signal, by_signal));
    put(o, "signal_name", by_signal ? string(nng_signal_name(st->signal)) : json_null());
    put(o, "code", number_or_null(st->code, st->known && !st->signal));
    put(o, "core", st->known ? json_boolean(st->core) : json_null());
    put(o, "inferred", json_boolean(st->inferred));
    put(o, "source", string_or_null(st->source));
    return o;
}

static json_t *run_part(const struct nng_run *r)
{
    json_t *o = json_object();
    char buf[64];
    put(o, "id", string(r->id));
    put(o, "dir", string_or_null(r->dir));
    put(o, "host", string(r->host));
    put(o, "root_pid", number(r->root_pid));
    put(o, "command", list(r->command, sizeof r->command));
    put(o, "started", json_string(nng_say_rfc3339(buf, sizeof buf, r->start_real_ns)));
    put(o, "ended", when(r, r->end_boot_ns));
    put(o, "exit", r->exit.known ? status(&r->exit) : json_null());
    put(o, "ended_silently", json_boolean(r->ended_silently));
    put(o, "rank", number_or_null(r->rank, r->rank >= 0));
    return o;
}

/* Cleaned as NAME=VALUE and split afterwards: the name tells whether the value is a secret. */
static json_t *environment(const struct nng_machine *m)
{
    json_t *o = json_object();
    const char *end = m->env + sizeof m->env;
    for (const char *p = m->env; p < end && *p;) {
        size_t len = strnlen(p, (size_t)(end - p));
        char raw[sizeof m->env + 1], clean[sizeof m->env + 1];
        snprintf(raw, sizeof raw, "%.*s", (int)len, p);
        nng_clean(clean, sizeof clean, raw);
        char *eq = strchr(clean, '=');
        if (eq) {
            *eq = 0;
            put(o, clean, string(eq + 1));
        }
        p += len + 1;
    }
    return o;
}

static json_t *limits(const struct nng_usage *u)
{
    static const char *const names[16] = {
        "cpu",     "fsize", "data",  "stack",      "core",     "rss",  "nproc",  "nofile",
        "memlock", "as",    "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime"};
    if (!u->valid)
        return json_null();
    json_t *o = json_object();
    for (int i = 0; i < 16; i++) {
        json_t *pair = json_array(); /* null: unlimited */
        push(pair, number_or_null((int64_t)u->rlim_soft[i], u->rlim_soft[i] != UINT64_MAX));
        push(pair, number_or_null((int64_t)u->rlim_hard[i], u->rlim_hard[i] != UINT64_MAX));
        put(o, names[i], pair);
    }
    return o;
}

static json_t *machine(const struct nng_run *r)
{
    static const char *const places[] = {"host", "docker", "kubernetes", "slurm", "apptainer"};
    const struct nng_machine *m = &r->machine;
    json_t *o = json_object();
    bool known = r->hostmem.total > 0; /* never looked at, in a post-mortem */
    put(o, "place", string(m->place <= NNG_PL_APPTAINER ? places[m->place] : "host"));
    put(o, "place_detail", string_or_null(m->place_detail));
    put(o, "cpus", number_or_null(m->cpus, m->cpus > 0));
    put(o, "kernel", string_or_null(m->kernel));
    put(o, "libc", string_or_null(m->libc));
    put(o, "memory_total_bytes", size(known ? r->hostmem.total : -1));
    put(o, "memory_available_bytes", size(known ? r->hostmem.available : -1));
    put(o, "swap_total_bytes", size(known ? r->hostmem.swap_total : -1));
    put(o, "swap_free_bytes", size(known ? r->hostmem.swap_free : -1));
    put(o, "shm_start_bytes", size(m->shm_total > 0 ? m->shm_total : -1));
    put(o, "shm_total_bytes", size(r->shm.present ? r->shm.total : -1));
    put(o, "shm_free_bytes", size(r->shm.present ? r->shm.free : -1));
    put(o, "limits", limits(&r->limits));
    put(o, "environment", environment(m));
    return o;
}

/* ---- an incident
 * ------------------------------------------------------------------------------------- */

static json_t *process(const struct nng_who *w)
{
    static const char *const roles[] = {"trainer", "worker", "helper"};
    static const char *const methods[] = {"fork", "spawn", "forkserver", "exec"};
    json_t *o = json_object();
    put(o, "pid", number_or_null(w->pid, w->pid > 0));
    put(o, "ppid", number_or_null(w->ppid, w->ppid > 0));
    put(o, "role", string(w->role <= NNG_ROLE_HELPER ? roles[w->role] : "helper"));
    put(o, "name", string(w->name));
    put(o, "cmdline", string_or_null(w->cmdline));
    put(o, "ordinal", number_or_null(w->ordinal, w->ordinal > 0));
    put(o, "of", number_or_null(w->of, w->of > 0));
    put(o, "rank", number_or_null(w->rank, w->rank >= 0));
    put(o, "start_method", string(w->method <= NNG_SM_EXEC ? methods[w->method] : "exec"));
    return o;
}

static json_t *facts(const struct nng_verdict *v)
{
    json_t *a = json_array();
    for (int i = 0; i < v->n_fact && i < NNG_FACTS; i++) {
        const struct nng_fact *f = &v->fact[i];
        json_t *o = json_object();
        put(o, "fact", string(f->name));
        put(o, "value",
            f->type == NNG_FT_INT   ? number(f->num)
            : f->type == NNG_FT_STR ? string(f->str)
                                    : json_null());
        put(o, "source", string(f->source));
        push(a, o);
    }
    return a;
}

static json_t *proofs(const struct nng_verdict *v)
{
    json_t *a = json_array();
    for (int i = 0; i < v->n_proof && i < NNG_PROOFS; i++)
        push(a, both(&v->proof[i]));
    return a;
}

static json_t *fixes(const struct nng_verdict *v)
{
    json_t *a = json_array();
    for (int i = 0; i < v->n_fix && i < NNG_FIXES; i++) {
        const struct nng_fix *f = &v->fix[i];
        json_t *o = json_object();
        put(o, "kind", json_string(f->workaround ? "workaround" : "root"));
        put(o, "text", both(&f->text));
        put(o, "command", string_or_null(f->command));
        put(o, "cost", f->cost.en[0] ? both(&f->cost) : json_null());
        push(a, o);
    }
    return a;
}

static json_t *consequences(const struct nng_incident *i)
{
    json_t *a = json_array();
    for (int k = 0; k < i->n_consequences && k < NNG_CONSEQUENCES; k++) {
        const struct nng_consequence *c = &i->consequence[k];
        json_t *o = json_object();
        put(o, "pid", number(c->pid));
        put(o, "signal", number_or_null(c->signal, c->signal > 0));
        put(o, "code", number_or_null(c->code, c->signal <= 0));
        put(o, "why", string(nng_pick(&c->why, NNG_EN)));
        put(o, "why_zh", string(nng_pick(&c->why, NNG_ZH)));
        push(a, o);
    }
    return a;
}

static json_t *stack(const struct nng_stack *st)
{
    json_t *o = json_object(), *native = json_array(), *python = json_array();
    char line[320];
    for (int i = 0; i < st->n && i < 48; i++) {
        const struct nng_frame *f = &st->frame[i];
        snprintf(line, sizeof line, "%s+0x%llx%s%s", f->module, (unsigned long long)f->offset,
                 f->symbol[0] ? " " : "", f->symbol);
        push(native, string(line));
    }
    for (int i = 0; i < st->n_python && i < 16; i++)
        push(python, string(st->python[i]));
    put(o, "native", native);
    put(o, "python", python);
    put(o, "culprit", number_or_null(st->culprit, st->culprit >= 0 && st->culprit < st->n));
    put(o, "why_not", string_or_null(st->why_not));
    return o;
}

static json_t *exception(const struct nng_traceback *tb)
{
    if (!tb->present || !tb->type[0])
        return json_null();
    json_t *o = json_object();
    put(o, "type", string(tb->type));
    put(o, "message", string(tb->message));
    put(o, "file", string_or_null(tb->file));
    put(o, "line", number_or_null(tb->line, tb->line > 0));
    put(o, "function", string_or_null(tb->func));
    return o;
}

static json_t *output(const char *tail)
{
    json_t *a = json_array();
    while (*tail) {
        size_t n = strcspn(tail, "\n");
        push(a, string_n(tail, n));
        tail += n + (tail[n] == '\n');
    }
    return a;
}

static json_t *files(const struct nng_evidence *ev)
{
    json_t *a = json_array();
    for (int i = 0; i < ev->n_files && i < (int)NNG_FILES_N; i++)
        push(a, string(ev->files[i]));
    return a;
}

static json_t *incident(const struct nng_run *r, const struct nng_incident *i)
{
    static const char *const kinds[] = {"death", "stall", "failure"};
    const struct nng_evidence *ev = &i->ev;
    const struct nng_verdict *v = &i->verdict;
    char en[NNG_LINE_MAX], zh[NNG_LINE_MAX];
    json_t *o = json_object();
    nng_say_first(en, sizeof en, i, NNG_EN);
    nng_say_first(zh, sizeof zh, i, NNG_ZH);
    put(o, "kind", string(ev->kind <= NNG_K_FAILURE ? kinds[ev->kind] : "failure"));
    put(o, "cause", string(v->cause ? v->cause : "unknown"));
    put(o, "confidence", string(nng_say_confidence(v->confidence, NNG_EN)));
    put(o, "count", number(i->count ? i->count : 1));
    put(o, "last_time", when(r, i->last_time_ns));
    put(o, "time", when(r, ev->time_ns ? ev->time_ns : r->start_boot_ns));
    put(o, "summary", words(en, zh));
    put(o, "proof", proofs(v));
    put(o, "doubt", v->doubt.en[0] ? both(&v->doubt) : json_null());
    put(o, "process", process(&ev->who));
    put(o, "exit", status(&ev->status));
    put(o, "evidence", facts(v));
    put(o, "fixes", fixes(v));
    put(o, "consequences", consequences(i));
    put(o, "exception", exception(&ev->tb));
    put(o, "stack", stack(&ev->stack));
    put(o, "last_output", output(ev->tail));
    put(o, "last_files", files(ev));
    return o;
}

/* ---- the document
 * ------------------------------------------------------------------------------------ */

static json_t *health(const struct nng_run *r)
{
    json_t *a = json_array();
    for (unsigned i = 0; i < NNG_H_COUNT; i++) {
        if (!r->health[i])
            continue;
        json_t *o = json_object();
        put(o, "count", number((int64_t)r->health[i]));
        put(o, "what", string(nng_health_text(i)));
        push(a, o);
    }
    return a;
}

static json_t *timeline(const struct nng_run *r)
{
    json_t *a = json_array();
    int order[NNG_TIMELINE];
    int n = nng_moment_order(r, order);
    for (int i = 0; i < n; i++) {
        json_t *o = json_object();
        put(o, "time", when(r, r->moment[order[i]].time_ns));
        put(o, "text", string(r->moment[order[i]].text));
        push(a, o);
    }
    return a;
}

static json_t *rescued(const struct nng_run *r)
{
    if (!r->rescued.segments && !r->rescued.refused)
        return json_null();
    json_t *o = json_object();
    put(o, "segments", number((int64_t)(r->rescued.segments & INT64_MAX)));
    put(o, "bytes", number((int64_t)(r->rescued.bytes & INT64_MAX)));
    put(o, "peak_bytes", number((int64_t)(r->rescued.peak & INT64_MAX)));
    put(o, "refused", number((int64_t)(r->rescued.refused & INT64_MAX)));
    return o;
}

char *nng_report_json(const struct nng_run *r)
{
    lost = false;
    json_t *o = json_object(), *incidents = json_array();
    char line[NNG_LINE_MAX], line_zh[NNG_LINE_MAX];
    put(o, "schema", json_string("nnguard-report/1"));
    put(o, "run", run_part(r));
    put(o, "machine", machine(r));
    put(o, "root", number_or_null(r->root, r->root >= 0 && r->root < r->n_incidents));
    put(o, "lost_records", number((int64_t)(r->lost_records & INT64_MAX)));
    put(o, "torn_records", number((int64_t)(r->torn_records & INT64_MAX)));
    put(o, "version", json_string(NNG_VERSION_STRING));
    for (int i = 0; i < r->n_incidents && i < NNG_INCIDENTS; i++)
        push(incidents, incident(r, &r->incident[i]));
    put(o, "incidents", incidents);
    put(o, "incidents_not_kept", number(r->n_beyond > 0 ? r->n_beyond : 0));
    nng_say_end(line, sizeof line, r, NNG_EN);
    nng_say_end(line_zh, sizeof line_zh, r, NNG_ZH);
    put(o, "conclusion", r->end_boot_ns ? words(line, line_zh) : json_null());
    put(o, "rescue", rescued(r));
    put(o, "timeline", timeline(r));
    put(o, "health", health(r));
    char *text = lost ? NULL : json_dumps(o, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
    json_decref(o);
    return text;
}
