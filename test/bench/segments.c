/* SPDX-License-Identifier: MIT
 *
 * Batches through shared memory as torch makes them: segments BYTES COUNT [KEEP_NAME] prints the MiB
 * per second of the fastest quarter of COUNT segments, each made, sized, filled and let go.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static double seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double one(size_t size, int number, int keep_name)
{
    char name[64];
    double start = seconds();
    snprintf(name, sizeof name, "/torch_%d_1_%d", getpid(), number);
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)size) || posix_fallocate(fd, 0, (off_t)size)) {
        perror("segment");
        exit(1);
    }
    char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        exit(1);
    if (!keep_name)
        shm_unlink(name);
    memset(p, number, size);
    munmap(p, size);
    close(fd);
    if (keep_name)
        shm_unlink(name);
    return seconds() - start;
}

static int ascending(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return (d > 0) - (d < 0);
}

int main(int argc, char **argv)
{
    static double t[4096];
    size_t size = argc > 2 ? strtoul(argv[1], NULL, 10) : 0;
    int count = argc > 2 ? atoi(argv[2]) : 0;
    if (!size || count < 4 || count > 4096)
        return 2;
    for (int i = 0; i < count; i++)
        t[i] = one(size, i, argc > 3);
    qsort(t, (size_t)count, sizeof *t, ascending);
    printf("%.1f\n", (double)size / 1048576 / t[count / 4]);
    return 0;
}
