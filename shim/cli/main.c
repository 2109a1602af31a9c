/* SPDX-License-Identifier: MIT
 *
 * nnguard: chooses the command.
 */
#include "cli.h"

#include "../monitor/monitor.h"
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", nng_cli_run},
    {"report", nng_cli_report},
    {"clean", nng_cli_clean},
    {"monitor", nng_monitor_main},
};

static bool is_one_of(const char *arg, const char *a, const char *b, const char *c)
{
    return !strcmp(arg, a) || !strcmp(arg, b) || !strcmp(arg, c);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        nng_cli_say("no command given; nnguard --help lists them");
        return NNG_USAGE;
    }
    const char *name = argv[1];
    if (is_one_of(name, "--help", "-h", "help"))
        return nng_cli_help(argc > 2 ? argv[2] : NULL);
    if (is_one_of(name, "--version", "-V", "version")) {
        puts("nnguard " NNG_VERSION_STRING);
        return nng_cli_finish(0);
    }
    if (!strcmp(name, "monitor") && argc > 2 && is_one_of(argv[2], "--help", "-h", "help"))
        return nng_cli_help(name);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(name, commands[i].name))
            return commands[i].run(argc - 1, argv + 1);
    nng_cli_say("unknown %s '%s'; nnguard --help lists what there is",
                name[0] == '-' ? "option" : "command", name);
    return NNG_USAGE;
}
