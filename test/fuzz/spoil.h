/* SPDX-License-Identifier: MIT
 *
 * Turns fuzzing input into a spoilt journal: a whole one is made once, the input is a list of patches
 * (where, which entry, offset, length, bytes), and each run undoes its own. So a few bytes of input reach
 * any field of a file of more than a megabyte.
 */
#ifndef NNG_FUZZ_SPOIL_H
#define NNG_FUZZ_SPOIL_H

#include "shim/journal/append.h"
#include "shim/journal/snapshot.h"
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "broken promise: %s\n", #condition);                                   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static char spoil_dir[64];
static char spoil_path[80];
static int spoil_fd = -1;
static struct nng_journal *spoil_j;
static unsigned char *spoil_whole; /* what to go back to */

static void spoil_remove(void)
{
    unlink(spoil_path);
    rmdir(spoil_dir);
}

static void spoil_process(uint32_t pid, uint32_t ppid, enum nng_birth birth, const char *cmdline)
{
    static const char tail[] =
        "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\nKeyError: 1\n";
    struct nng_proc *p = nng_proc_claim();
    nng_self = p;
    p->pid = pid;
    p->ppid = ppid;
    p->birth = birth;
    p->python = 1;
    p->birth_ns = nng_now();
    strcpy(p->comm, "python3");
    strcpy(p->cmdline, cmdline);
    nng_put(&(struct nng_put){
        .type = NNG_R_BIRTH, .a = ppid, .b = p - spoil_j->procs, .c = birth, .text = "python3"});
    nng_tail_put(tail, sizeof tail - 1);
    nng_file_put("/data/case_001.npz");
}

/* A trainer with two workers, one killed by SIGBUS, one by SIGKILL; then the trainer's end. */
static void spoil_story(void)
{
    spoil_process(1000, 1, NNG_B_ROOT, "python3 train.py");
    spoil_process(1001, 1000, NNG_B_FORK, "python3 train.py");
    struct nng_fault *f = &nng_self->fault;
    f->signo = 7;
    f->code = 2;
    f->sender_pid = -1;
    f->map_devshm = f->has_map = f->statfs_ok = 1;
    f->fs_bsize = 4096;
    f->fs_blocks = 16384;
    strcpy(f->map_path, "/dev/shm/torch_1");
    atomic_store(&f->state, NNG_F_HELD);
    nng_put(&(struct nng_put){.type = NNG_R_SIGNAL, .a = 7, .b = 2, .flags = NNG_RF_SUSPECT});
    spoil_process(1002, 1000, NNG_B_FORK, "python3 train.py");
    nng_put(&(struct nng_put){.type = NNG_R_FAIL,
                              .call = NNG_C_POSIX_FALLOCATE,
                              .err = 28,
                              .a = 1 << 20,
                              .c = 64 << 20,
                              .flags = NNG_RF_DEVSHM,
                              .text = "/torch_2"});
    nng_self = &spoil_j->procs[0];
    nng_put(&(struct nng_put){.type = NNG_R_WAIT, .call = NNG_C_WAITPID, .a = 1001, .b = 7});
    nng_put(&(struct nng_put){.type = NNG_R_WAIT, .call = NNG_C_WAITPID, .a = 1002, .b = 9});
    nng_put(&(struct nng_put){.type = NNG_R_KILL, .call = NNG_C_KILL, .a = 1002, .b = 15});
    nng_put(&(struct nng_put){.type = NNG_R_SAMPLE, .a = 1 << 30, .text = "1000:5000 1001:400"});
    nng_put(&(struct nng_put){.type = NNG_R_SHM_OPEN, .a = 3, .text = "/torch_1"});
    nng_put(&(struct nng_put){.type = NNG_R_LEAVE, .call = NNG_C_EXIT, .a = 1});
}

static void spoil_init(void)
{
    if (spoil_j)
        return;
    const char *tmp = getenv("TMPDIR");
    snprintf(spoil_dir, sizeof spoil_dir, "%.40s/nng-fuzz-XXXXXX", tmp ? tmp : "/tmp");
    MUST(mkdtemp(spoil_dir));
    snprintf(spoil_path, sizeof spoil_path, "%s/journal", spoil_dir);
    spoil_fd = open(spoil_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    MUST(spoil_fd >= 0 && !ftruncate(spoil_fd, sizeof *spoil_j));
    atexit(spoil_remove);
    spoil_j = mmap(NULL, sizeof *spoil_j, PROT_READ | PROT_WRITE, MAP_SHARED, spoil_fd, 0);
    MUST(spoil_j != MAP_FAILED);
    struct nng_header *h = &spoil_j->hdr;
    h->magic = NNG_MAGIC;
    h->version = NNG_VERSION;
    h->header_size = sizeof *h;
    h->file_size = sizeof *spoil_j;
    h->root_pid = 1000;
    h->start_real_ns = 1795528981000000000ull;
    h->start_boot_ns = nng_now();
    memcpy(h->command, "python3\0train.py", 17);
    memcpy(h->env, "LANG=C\0PATH=/bin", 17);
    nng_journal_attach(spoil_j);
    spoil_story();
    nng_journal_detach();
    spoil_whole = malloc(sizeof *spoil_j);
    MUST(spoil_whole);
    memcpy(spoil_whole, spoil_j, sizeof *spoil_j);
}

/* Start and size of the part that a patch means. */
static size_t spoil_part(unsigned where, unsigned index, size_t *size)
{
    switch (where % 6) {
    case 0:
        *size = sizeof(struct nng_header);
        return 0;
    case 1:
        *size = 3 * sizeof(struct nng_ring);
        return offsetof(struct nng_journal, events_ring);
    case 2:
        *size = sizeof(struct nng_rec);
        return offsetof(struct nng_journal, events) + index % 16 * sizeof(struct nng_rec);
    case 3:
        *size = sizeof(struct nng_rec);
        return offsetof(struct nng_journal, trace) + index % 4 * sizeof(struct nng_rec);
    case 4:
        *size = offsetof(struct nng_proc, tail) + 64;
        return offsetof(struct nng_journal, procs) + index % 4 * sizeof(struct nng_proc);
    default:
        *size = NNG_TAIL_SIZE;
        return offsetof(struct nng_journal, procs) + index % 4 * sizeof(struct nng_proc) +
               offsetof(struct nng_proc, tail);
    }
}

/* A liar can compute a check sum as well as we can. */
static void spoil_sign(void)
{
    for (uint32_t i = 0; i < 16; i++)
        atomic_store(&spoil_j->events[i].commit,
                     (uint64_t)(i + 1) << 32 | nng_rec_check(&spoil_j->events[i], i));
}

/* Parts to be undone; beyond that many, everything is. */
static struct {
    size_t start, size;
} spoil_parts[64];
static size_t spoil_n_parts;

static void spoil_touched(size_t start, size_t size)
{
    if (spoil_n_parts < 64) {
        spoil_parts[spoil_n_parts].start = start;
        spoil_parts[spoil_n_parts].size = size;
    }
    spoil_n_parts++;
}

static void spoil_apply(const uint8_t *data, size_t n)
{
    bool sign = n && data[0] & 1;
    for (size_t i = 1; i + 5 <= n;) {
        size_t size, start = spoil_part(data[i], data[i + 1], &size);
        size_t offset = (data[i + 2] | (size_t)data[i + 3] << 8) % size, len = data[i + 4];
        i += 5;
        if (len > n - i)
            len = n - i;
        if (len > size - offset)
            len = size - offset;
        memcpy((char *)spoil_j + start + offset, data + i, len);
        spoil_touched(start, size);
        i += len;
    }
    if (sign)
        spoil_sign();
}

static void spoil_restore(size_t start, size_t size)
{
    memcpy((unsigned char *)spoil_j + start, spoil_whole + start, size);
}

static void spoil_undo(void)
{
    if (spoil_n_parts > 64)
        spoil_restore(0, sizeof *spoil_j);
    for (size_t i = 0; i < spoil_n_parts && i < 64; i++)
        spoil_restore(spoil_parts[i].start, spoil_parts[i].size);
    spoil_restore(offsetof(struct nng_journal, events), 16 * sizeof(struct nng_rec));
    spoil_n_parts = 0;
}

#endif
