/* SPDX-License-Identifier: MIT
 *
 * Prints a journal as lines of name=value, for tests: the header's words, each event, each process
 * with its fault. Usage: journal FILE
 */
#include "../../../shim/journal/format.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static const char *const types[] = {"none",
#define X(n, s, r) s,
                                    NNG_RECORD_TYPES(X)
#undef X
};
static const char *const calls[] = {
#define X(n, s) s,
    NNG_CALLS(X)
#undef X
};

static void show_ring(const struct nng_rec *recs, uint64_t next, uint64_t n)
{
    for (uint64_t t = next > n ? next - n : 0; t < next; t++) {
        const struct nng_rec *r = &recs[t % n];
        if (r->commit >> 32 != t + 1 || r->type >= NNG_R_COUNT || r->call >= NNG_C_COUNT)
            continue;
        printf("%s call=%s pid=%u tid=%u err=%d a=%ld b=%ld c=%ld d=%ld flags=%u text=%.*s\n",
               types[r->type], calls[r->call], r->pid, r->tid, r->err, (long)r->a, (long)r->b,
               (long)r->c, (long)r->d, r->flags, (int)r->text_len, r->text);
    }
}

static void show_fault(const struct nng_fault *f)
{
    printf(" fault state=%u signo=%d code=%d sender=%d sender_name=%s tid=%u addr=%#lx ip=%#lx "
           "sp=%#lx "
           "on_altstack=%u has_map=%u map=%#lx-%#lx prot=%u shared=%u deleted=%u devshm=%u ino=%lu "
           "size_source=%u size=%lu statfs=%u bavail=%lu blocks=%lu stack_low=%#lx handlers=%u "
           "stack_overflow=%u path=%s ip_path=%s abort=%s\n",
           f->state, f->signo, f->code, f->sender_pid, f->sender_name, f->tid, f->addr, f->ip,
           f->sp, f->on_altstack, f->has_map, f->map_start, f->map_end, f->map_prot, f->map_shared,
           f->map_deleted, f->map_devshm, f->map_ino, f->size_source, f->file_size, f->statfs_ok,
           f->fs_bavail, f->fs_blocks, f->stack_low, f->handlers, f->stack_overflow, f->map_path,
           f->ip_path, f->abort_msg);
}

int main(int argc, char **argv)
{
    int fd = argc == 2 ? open(argv[1], O_RDONLY) : -1;
    struct nng_journal *j = mmap(0, sizeof *j, PROT_READ, MAP_SHARED, fd, 0);
    if (j == MAP_FAILED)
        return 2;
    printf("header suspects=%u seen=%u incidents=%u closing=%u monitor=%u root_code=%d",
           j->hdr.suspects, j->hdr.suspects_seen, j->hdr.incidents, j->hdr.closing,
           j->hdr.monitor_state, j->hdr.root_code);
    for (int i = 0; i < NNG_H_COUNT; i++)
        printf(" h%d=%lu", i, (unsigned long)j->hdr.health[i]);
    printf("\n");
    show_ring(j->events, j->events_ring.next, NNG_EVENTS_N);
    for (unsigned i = 0; i < NNG_PROCS_N; i++) {
        const struct nng_proc *p = &j->procs[i];
        if (p->state == NNG_P_FREE)
            continue;
        printf("proc pid=%u state=%u code=%d threads=%u rss=%lu cmd=%s\n", p->pid, p->state,
               p->exit_code, p->usage.threads, p->usage.vm_rss, p->cmdline);
        if (p->fault.state)
            show_fault(&p->fault);
    }
    return 0;
}
