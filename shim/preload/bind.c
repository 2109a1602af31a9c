/* SPDX-License-Identifier: MIT
 *
 * Finding the real functions: what dlsym(RTLD_NEXT) does, by reading the symbol tables of the
 * libraries loaded behind us. Why not dlsym: before glibc 2.34 it lives in libdl.so.2, whose loading
 * costs every program under an exported LD_PRELOAD more than all the rest of us; it allocates when a
 * name is missing, which allocators that are hooked themselves do not survive; and one walk for all
 * names is four times as fast. Read-only but for the slots, and a slot once filled stays.
 *
 * What the constructor does not find may come later: before glibc 2.34 shm_* are in librt and sem_*
 * and pthread_* in libpthread, which Python's _posixshmem or an extension bring along by dlopen. So
 * REAL() looks again as long as its own slot is empty.
 */
#include "start.h"
#include <elf.h>
#include <link.h>
#include <sys/auxv.h>

extern const struct nng_hook *const __start_nng_hooks[] __attribute__((visibility("hidden")));
extern const struct nng_hook *const __stop_nng_hooks[] __attribute__((visibility("hidden")));
extern ElfW(Dyn) _DYNAMIC[] __attribute__((visibility("hidden")));

const char *nng_library_path = "";

struct table { /* one library's dynamic symbols */
    ElfW(Addr) base;
    const ElfW(Sym) * sym;
    const char *str;
    const ElfW(Half) * version; /* NULL: unversioned */
    const uint32_t *gnu, *sysv;
};

static const ElfW(Dyn) * dynamic(const struct dl_phdr_info *lib)
{
    for (unsigned i = 0; i < lib->dlpi_phnum; i++)
        if (lib->dlpi_phdr[i].p_type == PT_DYNAMIC)
            return (const ElfW(Dyn) *)(lib->dlpi_addr + lib->dlpi_phdr[i].p_vaddr);
    return NULL;
}

static bool read_table(const struct dl_phdr_info *lib, const ElfW(Dyn) * d, struct table *t)
{
    *t = (struct table){.base = lib->dlpi_addr};
    for (; d->d_tag != DT_NULL; d++) {
        /* glibc has relocated these addresses, other loaders have not */
        ElfW(Addr) p = d->d_un.d_ptr < t->base ? d->d_un.d_ptr + t->base : d->d_un.d_ptr;
        if (d->d_tag == DT_SYMTAB)
            t->sym = (const ElfW(Sym) *)p;
        else if (d->d_tag == DT_STRTAB)
            t->str = (const char *)p;
        else if (d->d_tag == DT_VERSYM)
            t->version = (const ElfW(Half) *)p;
        else if (d->d_tag == DT_GNU_HASH)
            t->gnu = (const uint32_t *)p;
        else if (d->d_tag == DT_HASH)
            t->sysv = (const uint32_t *)p;
    }
    return t->sym && t->str && (t->gnu || t->sysv);
}

static bool equal(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* Defined here, under this name, and in the version that a new program would get. */
static bool fits(const struct table *t, uint32_t i, const char *name)
{
    const ElfW(Sym) *s = &t->sym[i];
    return s->st_shndx != SHN_UNDEF && !(t->version && t->version[i] & 0x8000) &&
           ELF64_ST_BIND(s->st_info) != STB_LOCAL && equal(t->str + s->st_name, name);
}

static uint32_t find_gnu(const struct table *t, const char *name)
{
    uint32_t n = t->gnu[0], first = t->gnu[1], words = t->gnu[2], shift = t->gnu[3], h = 5381;
    const ElfW(Addr) *bloom = (const ElfW(Addr) *)(t->gnu + 4);
    const uint32_t *bucket = (const uint32_t *)(bloom + words), *chain = bucket + n;
    const unsigned bits = 8 * sizeof *bloom;
    for (const char *c = name; *c; c++)
        h = h * 33 + (unsigned char)*c;
    ElfW(Addr) want = (ElfW(Addr))1 << h % bits | (ElfW(Addr))1 << (h >> shift) % bits;
    if (!n || (bloom[h / bits % words] & want) != want)
        return 0;
    uint32_t i = bucket[h % n];
    if (i < first)
        return 0;
    for (;; i++) {
        uint32_t c = chain[i - first];
        if ((c | 1) == (h | 1) && fits(t, i, name))
            return i;
        if (c & 1)
            return 0;
    }
}

static uint32_t find_sysv(const struct table *t, const char *name)
{
    uint32_t n = t->sysv[0], h = 0;
    const uint32_t *bucket = t->sysv + 2, *chain = bucket + n;
    for (const char *c = name; *c; c++) {
        h = (h << 4) + (unsigned char)*c;
        h = (h ^ (h >> 24 & 0xf0)) & 0x0fffffff;
    }
    for (uint32_t i = n ? bucket[h % n] : 0; i; i = chain[i])
        if (fits(t, i, name))
            return i;
    return 0;
}

static void *find(const struct table *t, const char *name)
{
    uint32_t i = t->gnu ? find_gnu(t, name) : find_sysv(t, name);
    if (!i)
        return NULL;
    void *at = (void *)(t->base + t->sym[i].st_value);
    if (ELF64_ST_TYPE(t->sym[i].st_info) != STT_GNU_IFUNC)
        return at;
    return ((void *(*)(unsigned long))at)(getauxval(AT_HWCAP));
}

/* Called for each library in search order. */
static int visit(struct dl_phdr_info *lib, size_t size, void *data)
{
    bool *behind_us = data;
    const ElfW(Dyn) *d = dynamic(lib);
    struct table t;
    (void)size;
    if (d == _DYNAMIC) {
        *behind_us = true;
        nng_library_path = lib->dlpi_name;
        return 0;
    }
    if (!*behind_us || !d || !read_table(lib, d, &t))
        return 0;
    unsigned missing = 0;
    for (const struct nng_hook *const *h = __start_nng_hooks; h < __stop_nng_hooks; h++)
        if (!*(*h)->slot && !(*(*h)->slot = find(&t, (*h)->name)))
            missing++;
    return !missing;
}

void nng_bind(void)
{
    bool behind_us = false;
    /* No lock: two threads that meet here bind the same values. */
    dl_iterate_phdr(visit, &behind_us);
}
