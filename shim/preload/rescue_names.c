/* SPDX-License-Identifier: MIT
 *
 * Which files on /dev/shm may be replaced. A file with a name can be opened by programs that run
 * without us, and they would find the empty placeholder: half a file, without an error, which is
 * worse than the ENOSPC it replaces. So a named file must be shared memory in the sense of its users:
 * made by shm_open in this process tree, or named as the libraries of trainers name theirs (torch,
 * multiprocessing, joblib). A file without a name has no other readers than those who got its fd.
 * [as-safe]
 */
#include "internal.h"
#include "rescue.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define REMEMBERED 256u

/* Inodes that shm_open made; inherited by fork. */
static _Atomic uint64_t made[REMEMBERED];
static _Atomic unsigned next;

void nng_rescue_note_shm(int fd)
{
    struct stat st;
    if (fd >= 0 && !nng_sys2(SYS_fstat, fd, &st))
        atomic_store_explicit(&made[atomic_fetch_add(&next, 1) % REMEMBERED], st.st_ino,
                              memory_order_relaxed);
}

static bool trainers_name(const char *name)
{
    static const char *const known[] = {"torch_", "psm_", "wnsm_", "pym-",
                                        "mp-",    "sem.", "loky-", "joblib_"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (!__builtin_strncmp(name, known[i], __builtin_strlen(known[i])))
            return true;
    return false;
}

bool nng_rescue_is_shm(int fd, const struct stat *st)
{
    static const char folder[] = "/dev/shm/";
    char link[64], path[256], *end = link + sizeof link;
    if (st->st_nlink == 0)
        return true;
    for (unsigned i = 0; i < REMEMBERED; i++)
        if (atomic_load_explicit(&made[i], memory_order_relaxed) == st->st_ino)
            return true;
    nng_fmt_u64(nng_fmt_str(link, end, "/proc/self/fd/"), end, (uint64_t)fd);
    long n = nng_sys4(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (n <= 0)
        return false;
    path[n] = 0;
    return !__builtin_strncmp(path, folder, sizeof folder - 1) &&
           trainers_name(path + sizeof folder - 1);
}
