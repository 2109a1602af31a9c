/* SPDX-License-Identifier: MIT
 *
 * Help, and the one way in which commands speak on stderr.
 */
#include "cli.h"

#include "../report/part.h"
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char general[] =
    "nnguard " NNG_VERSION_STRING
    ": says why a training run lost a worker, and what to do about it\n"
    "\n"
    "  nnguard run CMD...                guard CMD; the same as LD_PRELOAD=.../libnnguard.so "
    "CMD...\n"
    "  nnguard report [RUN|DIR] [--json] show the report of a run, of the newest one by default\n"
    "  nnguard clean [--yes]             list (remove) what ended runs left in /dev/shm\n"
    "  nnguard monitor                   started by the library itself, one a run\n"
    "  nnguard --help [COMMAND], --version\n"
    "\n"
    "Settings (environment):\n"
    "  NNGUARD=0                    off\n"
    "  NNGUARD_DIR=DIR              where runs are kept (default ${TMPDIR:-/tmp}/nnguard-<uid>)\n"
    "  NNGUARD_LANG=en|zh|auto      language (default: the locale's)\n"
    "  NNGUARD_QUIET=1              write the report, print nothing\n"
    "  NNGUARD_COLOR=auto|always|never\n"
    "  NNGUARD_MATCH=GLOB,...       guard programs of these names, too (default: Python only)\n"
    "  NNGUARD_RESCUE=shm,fd|all    help a run over a full /dev/shm\n"
    "  NNGUARD_ON_STALL=report|end  end a run that stands still for NNGUARD_STALL_S seconds (300)\n"
    "  NNGUARD_MONITOR=0            only record; nnguard report tells later\n";

static const char run_help[] = "nnguard run [--] CMD [ARG...]\n"
                               "\n"
                               "Runs CMD with libnnguard.so in front of LD_PRELOAD. CMD takes the "
                               "place of this program, so its\n"
                               "exit status and its signals are its own. 127: CMD or the library "
                               "was not found, 126: it cannot be\n"
                               "executed.\n";

static const char report_help[] =
    "nnguard report [RUN|DIR] [--json]\n"
    "\n"
    "RUN is a run's folder or its name, DIR a folder of runs (default: NNGUARD_DIR or where the "
    "library\n"
    "puts them). Without RUN: the newest run that had an incident or ended without a word; of the "
    "latter\n"
    "the journal is read, and the report is written beside it. --json prints report.json instead.\n"
    "Exit status 0: shown, 1: nothing to show.\n";

static const char clean_help[] =
    "nnguard clean [--yes [--force]]\n"
    "\n"
    "Lists the files in /dev/shm that your own training processes left behind: names of PyTorch,\n"
    "multiprocessing, joblib and loky whose makers are gone (or, where the name does not tell its\n"
    "maker, that are older than a minute) and that no process has open or mapped. --yes removes "
    "them.\n"
    "In a container processes of others that share its /dev/shm cannot be seen: there, and for "
    "what a\n"
    "process may use that could not be looked into, --yes removes nothing unless --force is "
    "given.\n"
    "Exit status 0: nothing left, 1: leftovers, 2: it cannot be told.\n";

static const char monitor_help[] = "nnguard monitor --journal-fd FD\n"
                                   "\n"
                                   "Started by libnnguard.so itself, one a run: it watches, "
                                   "decides and speaks. Not for people; to run\n"
                                   "a program under guard: nnguard run CMD...\n";

static const struct {
    const char *command, *text;
} helps[] = {{"run", run_help},         {"report", report_help}, {"clean", clean_help},
             {"monitor", monitor_help}, {"help", general},       {"--help", general}};

int nng_cli_help(const char *command)
{
    for (size_t i = 0; command && i < sizeof helps / sizeof *helps; i++)
        if (!strcmp(command, helps[i].command)) {
            fputs(helps[i].text, stdout);
            return nng_cli_finish(0);
        }
    if (command) {
        nng_cli_say("no command '%s'; nnguard --help lists them", command);
        return NNG_USAGE;
    }
    fputs(general, stdout);
    return nng_cli_finish(0);
}

void nng_cli_say(const char *fmt, ...)
{
    char raw[1500], clean[1500], line[1600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(raw, sizeof raw, fmt, ap);
    va_end(ap);
    nng_text_clean_line(clean, sizeof clean, raw, strlen(raw));
    int n = snprintf(line, sizeof line, NNG_PREFIX "%s\n", clean);
    fflush(stdout); /* into a pipe half a line of it may wait still */
    ssize_t w = write(2, line, (size_t)n);
    (void)w; /* nobody left to tell */
}

int nng_cli_bad_option(char **argv, const char *command)
{
    const char *arg = argv[optind - 1];
    char letter[3] = {'-', (char)optopt, 0};
    nng_cli_say("unknown option '%s'; nnguard --help %s explains the command",
                optopt && strncmp(arg, "--", 2) != 0 ? letter : arg, command);
    return NNG_USAGE;
}

int nng_cli_finish(int status)
{
    if (fflush(stdout) || ferror(stdout)) {
        nng_cli_say("the output could not be written: %s", strerror(errno));
        return 1;
    }
    return status;
}
