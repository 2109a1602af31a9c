/* SPDX-License-Identifier: MIT
 *
 * The commands of the program `nnguard`, one file each; main.c only chooses. A command gets its own
 * name as argv[0] and returns the exit status. What it has to say besides its result goes to stderr
 * as one line that begins with "nnguard: ".
 */
#ifndef NNG_CLI_CLI_H
#define NNG_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>

#define NNG_USAGE 2 /* exit status: the command line is wrong */

int nng_cli_run(int argc, char **argv);
int nng_cli_report(int argc, char **argv);
int nng_cli_clean(int argc, char **argv);
/* Help of one command, or of all where it is NULL; 0. */
int nng_cli_help(const char *command);

/* One line on stderr; the text is cleaned, since file names and arguments go into it. */
void nng_cli_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* "unknown option ..." with a hint at the help; returns NNG_USAGE. `argv` and optind as getopt_long
 * left them. */
int nng_cli_bad_option(char **argv, const char *command);
/* Flush stdout; `status`, or 1 with a line where what was shown could not be written. */
int nng_cli_finish(int status);

/* ---- runs.c: folders of runs
 * ---------------------------------------------------------------------- */
struct nng_runs {
    size_t n, cap;
    struct nng_run_dir {
        char *dir;  /* path */
        char *id;   /* folder's name, inside dir */
        long mtime; /* of the folder */
    } * run;
};
/* Folders where libnnguard.so may have put its runs, in its order; "" is none. Returns false behind
 * the last one. */
bool nng_runs_base(unsigned i, char *out, size_t n, bool *asked);
/* Add the runs of one folder; 0 or -errno. */
int nng_runs_scan(struct nng_runs *r, const char *base);
/* Of all folders above that are ours, or of NNGUARD_DIR alone where the library can use that. */
void nng_runs_scan_all(struct nng_runs *r);
void nng_runs_sort(struct nng_runs *r); /* newest first */
void nng_runs_free(struct nng_runs *r);

#endif
