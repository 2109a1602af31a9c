/* SPDX-License-Identifier: MIT
 *
 * nnguard report [RUN|DIR] [--json]. A report that lies in the folder is shown: what the monitor
 * saw while the run lived is worth more than what the journal alone can tell. Where there is none
 * and the run and its monitor are gone, the journal is analysed, and the report is written into the
 * folder if that can be.
 */
#include "cli.h"

#include "../../probes/probes.h"
#include "../journal/snapshot.h"
#include "../monitor/monitor.h"
#include "../report/part.h"
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define REPORT_MAX (16 << 20) /* bytes; ours stay below 1 MiB */

enum state {
    ST_NOTHING,    /* no report, and the journal says that all was well */
    ST_REPORTED,   /* a report lies there */
    ST_GROWING,    /* a report lies there, and the run goes on */
    ST_UNFINISHED, /* a report lies there, but its monitor was killed */
    ST_SILENT,     /* no report, run and monitor are gone, not all was well: ask the journal */
    ST_LIVE,       /* no report, the run goes on */
    ST_BAD,        /* no report, and the journal cannot be read */
};

/* ---- what a folder holds
 * --------------------------------------------------------------------------- */

static bool exists(const char *dir, const char *name)
{
    char path[4200];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return !stat(path, &st) && S_ISREG(st.st_mode);
}

static enum state look_at(const char *dir, int *err)
{
    char path[4200];
    struct nng_view v;
    bool report = exists(dir, "report.json");
    snprintf(path, sizeof path, "%s/journal", dir);
    *err = nng_view_open(&v, path, -1, false);
    if (*err)
        return report ? ST_REPORTED : ST_BAD;
    bool lives = nng_run_lives(&v);
    nng_view_close(&v);
    /* Read again: a monitor may have finished, and removed its run, between the two looks. */
    uint32_t monitor = NNG_M_GONE, incidents = 0;
    if (!lives && !nng_view_open(&v, path, -1, false)) {
        monitor = atomic_load_explicit(&v.hdr.monitor_state, memory_order_relaxed);
        incidents = atomic_load_explicit(&v.hdr.incidents, memory_order_relaxed);
        nng_view_close(&v);
    }
    if (report)
        return lives ? ST_GROWING : monitor == NNG_M_GONE ? ST_REPORTED : ST_UNFINISHED;
    if (lives)
        return ST_LIVE;
    /* Told while it lived, but its report was removed or never found room on the disk. */
    return monitor == NNG_M_GONE && !incidents ? ST_NOTHING : ST_SILENT;
}

static const char *state_remark(enum state s)
{
    return s == ST_GROWING      ? "this run still goes on; its report may grow"
           : s == ST_UNFINISHED ? "the monitor was killed before this report was complete"
                                : NULL;
}

/* One line: what is wrong with this folder and what to do. */
static void explain(const char *dir, int err)
{
    switch (-err) {
    case EPROTO:
        nng_cli_say("%s/journal is no journal of nnguard; give the folder of a run", dir);
        break;
    case EPROTONOSUPPORT:
        nng_cli_say("%s/journal was written by another version; use the nnguard that lies beside "
                    "the libnnguard.so of that run",
                    dir);
        break;
    case EMSGSIZE:
        nng_cli_say("%s/journal is cut short, so it cannot be trusted; copy it again as a whole",
                    dir);
        break;
    case ENOENT:
        nng_cli_say("%s holds neither a report nor a journal; give the folder of a run", dir);
        break;
    case EACCES:
    case EPERM:
        nng_cli_say("%s/journal may not be read by you; ask as the user whose run it was", dir);
        break;
    default:
        nng_cli_say("%s/journal cannot be read: %s", dir, strerror(-err));
    }
}

/* ---- showing
 * ----------------------------------------------------------------------------------------- */

/* The whole file, terminated; NULL with errno. */
static char *slurp(const char *path)
{
    struct stat st;
    char *text = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return NULL;
    if (!fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size <= REPORT_MAX)
        text = malloc((size_t)st.st_size + 1);
    else
        errno = EFBIG;
    if (text) {
        ssize_t n = pread(fd, text, (size_t)st.st_size, 0);
        text[n > 0 ? n : 0] = 0;
    }
    close(fd);
    return text;
}

/* The text was cleaned when it was written, but this file may be anybody's. */
static void print_clean(const char *text)
{
    char line[4096];
    while (*text) {
        size_t n = strcspn(text, "\n");
        nng_text_clean_line(line, sizeof line, text, n);
        puts(line);
        text += n + (text[n] == '\n');
    }
}

static bool is_report(const char *text)
{
    json_t *o = json_loads(text, 0, NULL);
    const char *schema = json_string_value(json_object_get(o, "schema"));
    bool ok = schema && !strncmp(schema, "nnguard-report/", 15);
    json_decref(o);
    return ok;
}

static int show_file(const char *dir, bool json)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/report.%s", dir, json ? "json" : "txt");
    char *text = slurp(path);
    if (!text) {
        nng_cli_say("%s cannot be read: %s", path, strerror(errno));
        return 1;
    }
    bool ok = *text && (!json || is_report(text));
    if (ok && json)
        puts(text);
    else if (ok)
        print_clean(text);
    else
        nng_cli_say("%s is damaged: it is no report of nnguard", path);
    free(text);
    return ok ? nng_cli_finish(0) : 1;
}

static int print_run(const struct nng_run *r, bool json)
{
    struct nng_style s;
    nng_style_from_env(&s, 1);
    char *text = json ? nng_report_json(r) : nng_report_text(r, &s);
    if (!text) {
        nng_cli_say("out of memory");
        return 1;
    }
    fputs(text, stdout);
    if (json)
        puts("");
    free(text);
    return nng_cli_finish(0);
}

/* The folder may have been moved or copied since: where it lies now is its name. */
static void name_run(struct nng_run *r, const char *dir)
{
    char real[4096];
    if (!realpath(dir, real))
        return;
    size_t n = strlen(real);
    const char *base = strrchr(real, '/');
    if (base && base[1] && n < sizeof r->dir) {
        memcpy(r->dir, real, n + 1);
        snprintf(r->id, sizeof r->id, "%s", base + 1);
    }
}

/* Ask the journal. `quiet`: a run without anything to tell is passed over; 1 then. */
static int show_silent(const char *dir, bool json, bool quiet)
{
    struct nng_run *r = calloc(1, sizeof *r);
    if (!r) {
        nng_cli_say("out of memory");
        return 1;
    }
    int status = 1, err = nng_monitor_postmortem(dir, r);
    if (err == -EBUSY && !quiet) {
        nng_cli_say("the run in %s still goes on and has had no incident", dir);
    } else if (err && !quiet) {
        explain(dir, err);
    } else if (!err && (r->n_incidents > 0 || r->ended_silently)) {
        name_run(r, dir);
        nng_report_write(r); /* a folder that cannot be written is no reason to say less */
        status = print_run(r, json);
    } else if (!err && !quiet) {
        nng_cli_say("nothing to show: in the run in %s nothing went wrong that nnguard knows of",
                    dir);
    }
    if (!err)
        free(r->incident);
    free(r);
    return status;
}

static int show_run(const char *dir, bool json)
{
    int err;
    enum state s = look_at(dir, &err);
    switch (s) {
    case ST_REPORTED:
    case ST_GROWING:
    case ST_UNFINISHED:
        if (state_remark(s))
            nng_cli_say("%s", state_remark(s));
        return show_file(dir, json);
    case ST_SILENT:
        return show_silent(dir, json, false);
    case ST_LIVE:
        nng_cli_say("the run in %s still goes on and has had no incident", dir);
        return 1;
    case ST_NOTHING:
        nng_cli_say("nothing to show: in the run in %s nothing went wrong that nnguard knows of",
                    dir);
        return 1;
    case ST_BAD:
    default:
        explain(dir, err);
        return 1;
    }
}

/* The newest of these runs that has something to tell; a journal that cannot be read is mentioned,
 * so that an older report is not taken for the newest run's. */
static int show_newest(struct nng_runs *runs, bool json, const char *where)
{
    for (size_t i = 0; i < runs->n; i++) {
        int err;
        enum state s = look_at(runs->run[i].dir, &err);
        if (s == ST_REPORTED || s == ST_GROWING || s == ST_UNFINISHED)
            return show_run(runs->run[i].dir, json);
        if (s == ST_BAD && err != -ENOENT)
            explain(runs->run[i].dir, err);
        if (s == ST_SILENT && !show_silent(runs->run[i].dir, json, true))
            return 0;
    }
    nng_cli_say("nothing to show: no run in %s had an incident or ended without a word", where);
    return 1;
}

/* ---- which run
 * ---------------------------------------------------------------------------------------- */

static bool is_folder(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

/* The folder that the argument means: itself, the folder of a file in a run, or a run's name in one
 * of the folders of runs. */
static bool resolve(const char *arg, char *out, size_t n)
{
    char base[4096];
    bool asked;
    struct stat st;
    snprintf(out, n, "%s", arg);
    size_t len = strlen(out);
    while (len > 1 && out[len - 1] == '/')
        out[--len] = 0;
    if (is_folder(out))
        return true;
    if (!stat(out, &st)) {
        char *slash = strrchr(out, '/');
        snprintf(slash ? slash : out, slash ? 1 : n, "%s", slash ? "" : ".");
        return is_folder(out);
    }
    if (strchr(arg, '/'))
        return false;
    for (unsigned i = 0; nng_runs_base(i, base, sizeof base, &asked); i++) {
        if (!base[0])
            continue;
        snprintf(out, n, "%s/%s", base, arg);
        if (is_folder(out))
            return true;
    }
    return false;
}

static int report_on(const char *arg, bool json)
{
    char dir[8300];
    struct nng_runs runs = {0};
    if (!resolve(arg, dir, sizeof dir)) {
        nng_cli_say("no run '%s'; give the folder of a run or a folder of runs", arg);
        return 1;
    }
    if (exists(dir, "journal") || exists(dir, "report.json"))
        return show_run(dir, json);
    int err = nng_runs_scan(&runs, dir);
    int status = 1;
    nng_runs_sort(&runs);
    if (err)
        nng_cli_say("%s cannot be read: %s", dir, strerror(-err));
    else if (!runs.n)
        nng_cli_say("%s holds no run of nnguard; give the folder of a run or a folder of runs",
                    dir);
    else
        status = show_newest(&runs, json, dir);
    nng_runs_free(&runs);
    return status;
}

static int report_newest(bool json)
{
    char base[4096];
    bool asked;
    struct nng_runs runs = {0};
    nng_runs_scan_all(&runs);
    nng_runs_base(0, base, sizeof base, &asked);
    if (!base[0])
        nng_runs_base(1, base, sizeof base, &asked);
    int status = show_newest(&runs, json, base);
    nng_runs_free(&runs);
    return status;
}

static const struct option options[] = {
    {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};

int nng_cli_report(int argc, char **argv)
{
    bool json = false;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (c == 'h')
            return nng_cli_help("report");
        if (c != 'j')
            return nng_cli_bad_option(argv, "report");
        json = true;
    }
    if (argc - optind > 1) {
        nng_cli_say("report: one run at a time; '%s' is one too many", argv[optind + 1]);
        return NNG_USAGE;
    }
    return optind < argc ? report_on(argv[optind], json) : report_newest(json);
}
