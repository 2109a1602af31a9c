/* SPDX-License-Identifier: MIT
 *
 * A libc before glibc 2.34, made of the one at hand: preloaded behind libnnguard.so, whose constructor
 * therefore comes later, it takes the names that were not in libc.so.6 then out of libc's table of
 * symbols. late_libs.c brings them back, as librt.so.1 and libpthread.so.0 did.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *const names[] = {"shm_open",   "shm_unlink",     "sem_open",
                                    "sem_unlink", "pthread_create", "sem_close"};
#define N (sizeof names / sizeof *names)
static void *real[N];

void *old_libc_real(const char *name)
{
    for (unsigned i = 0; i < N; i++)
        if (!strcmp(names[i], name))
            return real[i];
    return NULL;
}

static void hide(ElfW(Sym) * s, ElfW(Addr) base, const char *str, int newest)
{
    for (unsigned i = 0; i < N; i++) {
        if (strcmp(str + s->st_name, names[i]) || !s->st_value)
            continue;
        if (newest)
            real[i] = (void *)(base + s->st_value);
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        mprotect((void *)((ElfW(Addr))s & ~(page - 1)), 2 * page, PROT_READ | PROT_WRITE);
        s->st_shndx = SHN_UNDEF;
        s->st_value = 0;
    }
}

static int visit(struct dl_phdr_info *lib, size_t size, void *unused)
{
    (void)size;
    (void)unused;
    if (!strstr(lib->dlpi_name, "libc.so.6"))
        return 0;
    ElfW(Sym) *sym = NULL;
    const char *str = NULL;
    const ElfW(Half) *version = NULL;
    for (unsigned i = 0; i < lib->dlpi_phnum; i++) {
        if (lib->dlpi_phdr[i].p_type != PT_DYNAMIC)
            continue;
        for (ElfW(Dyn) *d = (void *)(lib->dlpi_addr + lib->dlpi_phdr[i].p_vaddr); d->d_tag; d++) {
            if (d->d_tag == DT_SYMTAB)
                sym = (void *)d->d_un.d_ptr;
            else if (d->d_tag == DT_STRTAB)
                str = (void *)d->d_un.d_ptr;
            else if (d->d_tag == DT_VERSYM)
                version = (void *)d->d_un.d_ptr;
        }
    }
    for (size_t i = 0; sym && str && (const char *)&sym[i + 1] <= str; i++)
        hide(&sym[i], lib->dlpi_addr, str, !version || !(version[i] & 0x8000));
    return 1;
}

__attribute__((constructor)) static void start(void)
{
    dl_iterate_phdr(visit, NULL);
}
