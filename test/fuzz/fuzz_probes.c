/* SPDX-License-Identifier: MIT
 *
 * Files that other people may write or name, given to the probes with any content: the first byte
 * picks the file, the rest is what it holds.
 */
#include "probes/probes.h"
#include "probes/read.h"
#include "probes/stack_raw.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char *const files[] = {
    "/proc/42/stat",   "/proc/42/cmdline",     "/proc/42/cgroup",
    "/proc/42/limits", "/proc/self/mountinfo", "/proc/42/maps",
    "/proc/42/status", "/g/memory.events",     "/lib.so",
    "/dev/kmsg",       "/proc/meminfo",        "/lib64/libc.so.6",
};
#define FILES (sizeof files / sizeof files[0])

static char root[64];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

/* The fuzzer leaves without running exit handlers: a child cleans up when it is gone. */
static void clean_up_later(void)
{
    int gone[2];
    char c;

    if (pipe(gone) || fork() != 0)
        return;
    close(gone[1]);
    setsid();
    while (read(gone[0], &c, 1) > 0)
        ;
    nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    _exit(0);
}

static void put(const char *path, const void *data, size_t n, int flags)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        mkdir(full, 0755);
        *p = '/';
    }
    int fd = open(full, O_WRONLY | O_CREAT | flags, 0644);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n)
        abort();
    close(fd);
}

static void begin(void)
{
    snprintf(root, sizeof root, "/tmp/nng-fuzz-XXXXXX");
    if (!mkdtemp(root))
        abort();
    clean_up_later();
    nng_probe_root = root;
    put("/proc/42/cgroup", "4:memory:/x\n0::/x\n", 18, O_TRUNC);
    put("/dev/shm/torch_9_1_0", "x", 1, O_TRUNC);
}

static void names(void)
{
    static struct nng_stack_raw *raw;
    unsigned char page[NNG_STACK_PAGE] = {0};

    if (!raw)
        raw = mmap(NULL, sizeof *raw, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    snprintf(raw->module[0].path, sizeof raw->module[0].path, "%s/lib.so", root);
    int fd = open(raw->module[0].path, O_RDONLY);
    if (fd < 0)
        return;
    if (read(fd, page, sizeof page) > 0) {
        raw->pid = getpid();
        raw->n = raw->n_modules = 1;
        raw->frame[0].ip = 0x1000;
        raw->module[0].hash = nng_stack_hash(page);
        nng_probe_root = "";
        nng_stack_names(raw, nng_probes_clock(CLOCK_MONOTONIC) + 50000000ULL);
        nng_probe_root = root;
    }
    close(fd);
}

static void kmsg(const uint8_t *data, size_t n)
{
    static struct nng_kmsg_reader *k;
    struct nng_kmsg km;

    if (!k) {
        put("/dev/kmsg", "", 0, O_TRUNC);
        k = nng_kmsg_open();
    }
    put("/dev/kmsg", data, n, O_APPEND);
    nng_kmsg_poll(k);
    nng_kmsg_match(k, 42, "python3", -1, 0, UINT64_MAX, &km);
}

static void process(void)
{
    struct nng_pstat st;
    struct nng_cgroup cg;
    struct nng_cglevel level[4];
    struct nng_usage usage;
    struct nng_pidscope scope;
    char text[300];

    nng_proc_stat(42, &st);
    nng_proc_cmdline(42, text, sizeof text);
    if (!nng_cgroup_find(42, &cg)) {
        nng_cgroup_chain(&cg, level, 4);
        nng_pidscope_read(42, &cg, 0, &scope);
    }
    nng_limits_read(42, &usage);
}

static void journal_text(const uint8_t *data, size_t n)
{
    static struct nng_machine machine;
    static struct nng_stack stack;
    static char tail[NNG_TAIL_SIZE + 1];

    nng_machine_read((const char *)data, n, (const char *)data, n, &machine);
    snprintf(tail, sizeof tail, "%.*s", (int)n, (const char *)data);
    nng_stack_python(tail, &stack);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct nng_cgmem mem;
    struct nng_hostmem host;
    struct nng_shm shm;
    int pid = 42;

    if (!*root)
        begin();
    if (n == 0 || n > 65536)
        return 0;
    const char *file = files[*data % FILES];
    data++, n--;
    if (!strcmp(file, "/dev/kmsg")) {
        kmsg(data, n);
        return 0;
    }
    put(file, data, n, O_TRUNC);
    if (!strcmp(file, "/lib.so"))
        names();
    else if (!strcmp(file, "/proc/42/maps"))
        nng_devshm_read(&pid, 1, &shm);
    else if (!strcmp(file, "/g/memory.events"))
        nng_cgroup_mem("/g", 2, &mem);
    else if (!strcmp(file, "/proc/meminfo"))
        nng_hostmem_read(&host);
    else if (!strcmp(file, "/lib64/libc.so.6"))
        journal_text(data, n);
    else
        process();
    return 0;
}
