/* SPDX-License-Identifier: MIT
 *
 * nnguard run CMD...: puts the library in front of LD_PRELOAD and becomes CMD. There is no process
 * left between the caller and CMD, so exit status, signals, terminal and process group are CMD's
 * own.
 */
#include "cli.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOT_FOUND 127
#define NOT_EXECUTABLE 126
#define LIBRARY "libnnguard.so"

/* The folder of this program; false: /proc is not there to say. */
static bool own_folder(char *out, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", out, size - 1);
    if (n <= 0)
        return false;
    out[n] = 0;
    char *slash = strrchr(out, '/');
    if (!slash)
        return false;
    *slash = 0;
    return true;
}

static bool find_library(char *out, size_t size)
{
    static const char *const places[] = {"", "/../lib"};
    char folder[PATH_MAX], path[PATH_MAX + 64], real[PATH_MAX];
    if (!own_folder(folder, sizeof folder)) {
        nng_cli_say("cannot tell where this program lies (/proc is not mounted); "
                    "use LD_PRELOAD=/path/" LIBRARY " CMD... instead");
        return false;
    }
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(path, sizeof path, "%s%s/" LIBRARY, folder, places[i]);
        if (access(path, R_OK) == 0 && realpath(path, real) &&
            (size_t)snprintf(out, size, "%s", real) < size)
            return true;
    }
    nng_cli_say("%s/" LIBRARY " is missing (also in ../lib); install it beside nnguard", folder);
    return false;
}

/* Is `path` one of the colon- or space-separated entries? */
static bool has_entry(const char *list, const char *path)
{
    size_t n = strlen(path);
    for (const char *p = list; *p;) {
        size_t len = strcspn(p, ": ");
        if (len == n && !memcmp(p, path, n))
            return true;
        p += len;
        p += strspn(p, ": ");
    }
    return false;
}

static int preload(const char *path)
{
    const char *old = getenv("LD_PRELOAD");
    if (!old || !*old)
        return setenv("LD_PRELOAD", path, 1);
    if (has_entry(old, path))
        return 0;
    size_t n = strlen(path) + strlen(old) + 2;
    char *both = malloc(n);
    if (!both)
        return -1;
    snprintf(both, n, "%s:%s", path, old);
    int r = setenv("LD_PRELOAD", both, 1);
    free(both);
    return r;
}

static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};

int nng_cli_run(int argc, char **argv)
{
    char library[PATH_MAX];
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "+h", options, NULL)) != -1;) {
        if (c == 'h')
            return nng_cli_help("run");
        return nng_cli_bad_option(argv, "run");
    }
    if (optind >= argc) {
        nng_cli_say("run: no command given; for example: nnguard run nnUNetv2_train 1 2d 0");
        return NNG_USAGE;
    }
    if (!find_library(library, sizeof library))
        return NOT_FOUND;
    if (strpbrk(library, ": ")) {
        nng_cli_say("the loader splits LD_PRELOAD at spaces and colons, and %s has one; "
                    "move it to another folder",
                    library);
        return NOT_EXECUTABLE;
    }
    if (preload(library)) {
        nng_cli_say("LD_PRELOAD could not be set: %s", strerror(errno));
        return NOT_EXECUTABLE;
    }
    execvp(argv[optind], argv + optind);
    int err = errno;
    nng_cli_say("cannot run '%s': %s", argv[optind], strerror(err));
    return err == ENOENT || err == ENOTDIR ? NOT_FOUND : NOT_EXECUTABLE;
}
