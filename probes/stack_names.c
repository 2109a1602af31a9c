/* SPDX-License-Identifier: MIT
 *
 * From addresses to names, after the process was let go: reads ELF files, in a child with a time
 * limit of its own, because a library may lie on a slow or dead file server. A name is given only
 * where the address lies inside the symbol's size and the file's first page is the one that was in
 * memory: the nearest export below is mostly a false name, and a replaced library has others. Every
 * number in an ELF file is somebody else's.
 */
#include "read.h"
#include "stack_raw.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NAMES_MS 1000 /* the run's last words may be waiting */
#define SECTIONS_MAX 4096
#define SYMBOLS_MAX (1u << 24)
#define CHUNK 2048 /* symbols read at once */

uint64_t nng_stack_hash(const unsigned char *page)
{
    uint64_t h = 0x9e3779b97f4a7c15ULL;
    for (size_t i = 0; i < NNG_STACK_PAGE; i += 8) {
        uint64_t w;
        memcpy(&w, page + i, 8);
        h = (h ^ w) * 0xff51afd7ed558ccdULL;
        h ^= h >> 32;
    }
    return h ? h : 1;
}

/* ---- the file --------------------------------------------------------------------------------- */
static bool read_at(int fd, void *out, size_t n, uint64_t at)
{
    char *to = out;
    while (n) {
        ssize_t got = at > INT64_MAX ? -1 : pread(fd, to, n, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        to += got;
        at += (size_t)got;
        n -= (size_t)got;
    }
    return true;
}

static bool same_first_page(int fd, uint64_t hash)
{
    unsigned char page[NNG_STACK_PAGE] = {0};
    ssize_t n = pread(fd, page, sizeof page, 0);
    return n > 0 && nng_stack_hash(page) == hash;
}

static int open_module(int pid, const struct nng_stack_module *m)
{
    char path[600];
    struct stat st;

    if (m->path[0] != '/' || !m->hash)
        return -1;
    for (int way = 0; way < 3; way++) {
        if (way == 0) /* as the process itself sees it, while it still exists */
            snprintf(path, sizeof path, "/proc/%d/root%s", pid, m->path);
        else if (way == 1)
            snprintf(path, sizeof path, "%s", m->path);
        else /* a file without a name; needs privilege */
            snprintf(path, sizeof path, "/proc/%d/map_files/%llx-%llx", pid,
                     (unsigned long long)m->start, (unsigned long long)m->end);
        int fd = nng_probes_open(path);
        if (fd < 0)
            continue;
        if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && same_first_page(fd, m->hash))
            return fd;
        close(fd);
    }
    return -1;
}

static bool find_table(int fd, const Elf64_Ehdr *eh, uint32_t type, Elf64_Shdr *syms,
                       Elf64_Shdr *strs)
{
    for (unsigned i = 0; i < eh->e_shnum && i < SECTIONS_MAX; i++) {
        if (!read_at(fd, syms, sizeof *syms, eh->e_shoff + i * sizeof *syms))
            return false;
        if (syms->sh_type == type)
            return syms->sh_entsize == sizeof(Elf64_Sym) && syms->sh_link < eh->e_shnum &&
                   read_at(fd, strs, sizeof *strs, eh->e_shoff + syms->sh_link * sizeof *strs) &&
                   strs->sh_type == SHT_STRTAB;
    }
    return false;
}

/* ---- symbols ---------------------------------------------------------------------------------- */
struct best { /* for one frame */
    int frame;
    uint64_t addr; /* in the file */
    uint64_t size;
    uint32_t name;
    bool found, global;
};

static bool better(const struct best *b, const Elf64_Sym *s)
{
    bool global = ELF64_ST_BIND(s->st_info) != STB_LOCAL;
    if (!b->found || s->st_size != b->size)
        return !b->found || s->st_size < b->size;
    return global && !b->global;
}

static void offer(struct best *b, int n, const Elf64_Sym *s)
{
    unsigned type = ELF64_ST_TYPE(s->st_info);

    if ((type != STT_FUNC && type != STT_GNU_IFUNC) || s->st_shndx == SHN_UNDEF || !s->st_size)
        return;
    for (int i = 0; i < n; i++) {
        if (b[i].addr < s->st_value || b[i].addr - s->st_value >= s->st_size || !better(&b[i], s))
            continue;
        b[i].found = true;
        b[i].global = ELF64_ST_BIND(s->st_info) != STB_LOCAL;
        b[i].size = s->st_size;
        b[i].name = s->st_name;
    }
}

static void walk(int fd, const Elf64_Shdr *syms, struct best *b, int n, uint64_t until_ns)
{
    static Elf64_Sym chunk[CHUNK];
    uint64_t count = syms->sh_size / sizeof chunk[0];

    if (count > SYMBOLS_MAX)
        count = SYMBOLS_MAX;
    for (uint64_t i = 0; i < count; i += CHUNK) {
        size_t part = count - i < CHUNK ? (size_t)(count - i) : CHUNK;
        if (nng_probes_clock(CLOCK_MONOTONIC) > until_ns ||
            !read_at(fd, chunk, part * sizeof chunk[0], syms->sh_offset + i * sizeof chunk[0]))
            return;
        for (size_t k = 0; k < part; k++)
            offer(b, n, &chunk[k]);
    }
}

static void name_of(int fd, const Elf64_Shdr *strs, uint32_t at, char *out, size_t n)
{
    ssize_t got;

    out[0] = '\0';
    if (at >= strs->sh_size || strs->sh_offset > INT64_MAX - strs->sh_size)
        return;
    got = pread(fd, out, n - 1, (off_t)(strs->sh_offset + at));
    out[got > 0 ? got : 0] = '\0';
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < 0x21 || (unsigned char)*p > 0x7e) {
            out[0] = '\0'; /* no name that a compiler makes */
            return;
        }
}

static void resolve_module(struct nng_stack_raw *raw, int module, uint64_t until_ns)
{
    static const uint32_t types[] = {SHT_SYMTAB, SHT_DYNSYM};
    const struct nng_stack_module *m = &raw->module[module];
    struct best b[NNG_STACK_FRAMES];
    Elf64_Ehdr eh;
    Elf64_Shdr syms, strs;
    char symbol[1024];
    int n = 0, fd = open_module(raw->pid, m);

    if (fd < 0)
        return;
    memset(b, 0, sizeof b);
    for (int i = 0; i < raw->n && i < NNG_STACK_FRAMES; i++)
        if (raw->frame[i].module == module) {
            b[n].frame = i;
            b[n++].addr = raw->frame[i].ip - (raw->frame[i].exact ? 0 : 1) - m->bias;
        }
    if (read_at(fd, &eh, sizeof eh, 0) && eh.e_shentsize == sizeof(Elf64_Shdr))
        for (int t = 0; t < 2; t++) {
            if (!find_table(fd, &eh, types[t], &syms, &strs))
                continue;
            walk(fd, &syms, b, n, until_ns);
            for (int i = 0; i < n; i++)
                if (b[i].found) {
                    name_of(fd, &strs, b[i].name, symbol, sizeof symbol);
                    nng_stack_readable(symbol, raw->resolved[b[i].frame].symbol,
                                       sizeof raw->resolved[0].symbol);
                }
            break; /* .dynsym holds nothing that .symtab lacks */
        }
    close(fd);
}

void nng_stack_names(struct nng_stack_raw *raw, uint64_t until_ns)
{
    for (int i = 0; i < raw->n_modules && i < NNG_STACK_MODULES; i++)
        resolve_module(raw, i, until_ns);
}

static void names_apart(void *arg)
{
    nng_stack_names(arg, nng_probes_clock(CLOCK_MONOTONIC) + NAMES_MS * 1000000ULL);
}

/* ---- the stack for the report ----------------------------------------------------------------- */
static bool starts(const char *s, const char *with)
{
    return !strncmp(s, with, strlen(with));
}

/* libc, the loader, the kernel's own code and ours: never the culprit. libm is a library like others. */
static bool innocent(const char *module)
{
    const char *slash = strrchr(module, '/'), *base = slash ? slash + 1 : module;

    return !*module || !strcmp(base, "[vdso]") || starts(base, "libc.so") ||
           starts(base, "libc-2.") || starts(base, "libc.musl-") || starts(base, "ld-linux") ||
           starts(base, "ld-2.") || starts(base, "ld-musl-") || starts(base, "ld.so") ||
           starts(base, "libpthread.so") || starts(base, "libpthread-2.") ||
           starts(base, "libnnguard");
}

static void set_module(struct nng_frame *f, const char *path)
{
    static const char deleted[] = " (deleted)";
    size_t n = strlen(path), d = sizeof deleted - 1;

    if (n > d && !strcmp(path + n - d, deleted))
        n -= d;
    if (n < sizeof f->module)
        snprintf(f->module, sizeof f->module, "%.*s", (int)n, path);
    else /* the end of a path tells more than its start */
        snprintf(f->module, sizeof f->module, "...%.*s", (int)(sizeof f->module - 4),
                 path + n - (sizeof f->module - 4));
    for (char *p = f->module; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
}

static void find_culprit(struct nng_stack *out)
{
    out->culprit = -1;
    for (int i = 0; i < out->n && out->culprit < 0; i++)
        if (!innocent(out->frame[i].module))
            out->culprit = i;
}

void nng_stack_from_fault(const struct nng_fault *fault, struct nng_stack *out)
{
    struct nng_frame *f = &out->frame[0];

    out->taken = false;
    out->n = 0;
    out->culprit = -1;
    if (!fault || !fault->ip)
        return;
    memset(f, 0, sizeof *f);
    f->ip = fault->ip;
    out->n = 1;
    if (!fault->ip_path[0])
        return;
    char path[NNG_PATH + 1];
    snprintf(path, sizeof path, "%.*s", (int)NNG_PATH, fault->ip_path);
    set_module(f, path);
    f->offset = fault->ip - fault->ip_map_start + fault->ip_map_off;
    find_culprit(out);
}

static void why_not(int pid, int err, char *out, size_t n)
{
    char path[64], text[2048];

    snprintf(path, sizeof path, "/proc/%d/status", pid);
    int64_t tracer =
        nng_probes_slurp(path, text, sizeof text) > 0 ? nng_probes_keyed(text, "TracerPid") : -1;
    if (err == -EPERM && tracer > 0)
        snprintf(out, n, "already traced by pid %lld", (long long)tracer);
    else if (err == -EPERM || err == -EACCES)
        snprintf(out, n, "ptrace refused (Yama, seccomp or another user)");
    else if (err == -ESRCH)
        snprintf(out, n, "the process was gone");
    else if (err == -ETIME)
        snprintf(out, n, "not ready in time");
    else if (err == -ENOSYS)
        snprintf(out, n, "no ptrace on this system");
    else
        snprintf(out, n, "ptrace failed (errno %d)", -err);
}

void nng_stack_resolve(struct nng_stack_raw *raw, const struct nng_fault *fault,
                       struct nng_stack *out)
{
    /* acquire: the frames below n are complete; pairs with the release in stack.c */
    int n = atomic_load_explicit(&raw->n, memory_order_acquire);

    out->why_not[0] = '\0';
    if (raw->err)
        why_not(raw->pid, raw->err, out->why_not, sizeof out->why_not);
    if (n <= 0 || n > NNG_STACK_FRAMES) {
        nng_stack_from_fault(fault, out);
        munmap(raw, sizeof *raw);
        return;
    }
    nng_stack_apart(names_apart, raw, NAMES_MS + 100);
    out->taken = true;
    out->n = n;
    for (int i = 0; i < n; i++) {
        struct nng_frame *f = &out->frame[i];
        int m = raw->frame[i].module;
        memset(f, 0, sizeof *f);
        f->ip = raw->frame[i].ip;
        if (m < 0 || m >= NNG_STACK_MODULES)
            continue;
        set_module(f, raw->module[m].path);
        f->offset = f->ip - raw->module[m].bias;
        snprintf(f->symbol, sizeof f->symbol, "%.*s", (int)sizeof f->symbol - 1,
                 raw->resolved[i].symbol);
    }
    find_culprit(out);
    munmap(raw, sizeof *raw);
}
