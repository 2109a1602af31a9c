/* SPDX-License-Identifier: MIT
 *
 * Process file descriptors: they tell when somebody else's child died and, on new kernels, how.
 * Raw system calls and an own copy of the kernel's structure, because the headers that this is
 * built with may be older than the kernel it runs on.
 */
#include "probes.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

struct info { /* first published size, 64 bytes; the kernel takes any size it knows the start of */
    uint64_t mask, cgroupid;
    uint32_t pid, tgid, ppid;
    uint32_t ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
    int32_t exit_code;
};
_Static_assert(sizeof(struct info) == 64, "the kernel knows this size");

#define GET_INFO _IOWR(0xFF, 11, struct info)
#define INFO_EXIT (1ULL << 3)

int nng_pidfd_open(int pid)
{
    long fd = syscall(SYS_pidfd_open, pid, 0); /* the kernel sets close-on-exec by itself */
    return fd < 0 ? -errno : (int)fd;
}

int nng_pidfd_status(int pidfd, int *status)
{
    struct info info = {.mask = INFO_EXIT};

    if (ioctl(pidfd, GET_INFO, &info) < 0)
        return -errno;
    if (!(info.mask & INFO_EXIT))
        return 0;
    *status = info.exit_code;
    return 1;
}
