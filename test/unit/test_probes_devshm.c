/* SPDX-License-Identifier: MIT */
#include "probes_root.h"

#include "probes/read.h"

#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>

static void shm_file(const char *name, size_t n)
{
    char path[256];
    char *data = calloc(1, n);
    memset(data, 1, n);
    snprintf(path, sizeof path, "/dev/shm/%s", name);
    put_bytes(path, data, n);
    free(data);
}

static int64_t blocks(const char *name)
{
    char path[256];
    struct stat st;
    snprintf(path, sizeof path, "/dev/shm/%s", name);
    assert_int_equal(stat(root_full(path), &st), 0);
    return (int64_t)st.st_blocks * 512;
}

static void holds_fd(int pid, int fd, const char *name)
{
    char link[64], target[256];
    snprintf(link, sizeof link, "/proc/%d/fd/%d", pid, fd);
    snprintf(target, sizeof target, "%s/dev/shm/%s", root_path, name);
    put_link(link, target);
}

static void holds_map(int pid, const char *name, unsigned long length)
{
    char path[256], line[512];
    struct stat st;
    snprintf(path, sizeof path, "/dev/shm/%s", name);
    assert_int_equal(stat(root_full(path), &st), 0);
    snprintf(line, sizeof line,
             "7f0000000000-%lx rw-s 00000000 %02x:%02x %lu    /dev/shm/%s (deleted)\n"
             "7f1000000000-7f1000001000 r-xp 00000000 00:01 77 /lib/x\n",
             0x7f0000000000UL + length, major(st.st_dev), minor(st.st_dev),
             (unsigned long)st.st_ino, name);
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    put_text(path, line);
}

static void test_read__absent__unknown(void **s)
{
    struct nng_shm out;
    int pid = 42;
    (void)s;
    nng_devshm_read(&pid, 1, &out);
    assert_false(out.present);
    assert_int_equal(out.total, -1);
    assert_int_equal(out.held_by_run, -1);
    assert_int_equal(nng_devshm_used(), -1);
}

static void test_read__fd_and_map_of_two_processes__each_file_once(void **s)
{
    struct nng_shm out;
    int pids[3] = {42, 43, 44};
    (void)s;
    shm_file("torch_42_1_0", 100000);
    shm_file("other", 50000);
    holds_fd(42, 3, "torch_42_1_0");
    holds_fd(42, 4, "torch_42_1_0");
    holds_map(43, "torch_42_1_0", 1 << 20);
    put_text("/proc/44/maps", "");
    nng_devshm_read(pids, 3, &out);
    assert_true(out.present);
    assert_true(out.total > 0 && out.free >= 0);
    assert_int_equal(out.held_by_run, blocks("torch_42_1_0"));
    assert_int_equal(out.holders, 2);
    assert_int_equal(out.named, blocks("torch_42_1_0") + blocks("other"));
    assert_int_equal(out.named_count, 2);
    assert_int_equal(out.biggest_ask, -1);
}

static void test_read__map_alone__its_length_stands_in(void **s)
{
    struct nng_shm out;
    int pid = 42;
    (void)s;
    shm_file("x", 4096);
    holds_map(42, "x", 65536);
    nng_devshm_read(&pid, 1, &out);
    assert_int_equal(out.held_by_run, 65536);
    assert_int_equal(out.holders, 1);
}

static void test_read__no_processes_given__names_only(void **s)
{
    struct nng_shm out;
    (void)s;
    shm_file("x", 4096);
    nng_devshm_read(NULL, 0, &out);
    assert_int_equal(out.held_by_run, -1);
    assert_int_equal(out.leaked, -1);
    assert_int_equal(out.named_count, 1);
}

/* Just made: somebody may be about to map it, whoever's pid is in its name. */
static void test_leak__young_file__not_said(void **s)
{
    struct nng_shm out;
    int pid = 42;
    (void)s;
    put_text("/proc/42/maps", "");
    shm_file("torch_99_1_0", 4096);
    nng_devshm_read(&pid, 1, &out);
    assert_int_equal(out.leaked, 0);
    assert_int_equal(out.leaked_count, 0);
}

static int leaked(struct nng_shm *out)
{
    int pid = 42;
    put_link("/proc/self/ns/pid", "pid:[4026531836]");
    nng_devshm_young_s = 0;
    nng_devshm_read(&pid, 1, out);
    nng_devshm_young_s = 10;
    return out->leaked_count;
}

static void test_leak__maker_gone_and_nobody_holds__counted(void **s)
{
    struct nng_shm out;
    (void)s;
    put_text("/proc/42/maps", "");
    shm_file("torch_99_1_0", 40000);
    shm_file("pym-99-abcdef", 50000);
    shm_file("psm_1a2b3c4d", 60000);
    shm_file("sem.mp-abcdef", 32);
    assert_int_equal(leaked(&out), 4);
    assert_int_equal(out.leaked, blocks("torch_99_1_0") + blocks("pym-99-abcdef") +
                                     blocks("psm_1a2b3c4d") + blocks("sem.mp-abcdef"));
}

/* A pid namespace of our own and a /dev/shm that others share: their makers cannot be seen. */
static void test_leak__within_a_pid_namespace__unknown(void **s)
{
    struct nng_shm out;
    int pid = 42;
    (void)s;
    put_text("/proc/42/maps", "");
    put_link("/proc/self/ns/pid", "pid:[4026532201]");
    shm_file("torch_99_1_0", 40000);
    nng_devshm_young_s = 0;
    nng_devshm_read(&pid, 1, &out);
    nng_devshm_young_s = 10;
    assert_int_equal(out.leaked, -1);
    assert_int_equal(out.leaked_count, 0);
}

static void test_leak__maker_lives_or_held_or_foreign_name__not_counted(void **s)
{
    struct nng_shm out;
    (void)s;
    put_text("/proc/42/maps", "");
    put_text("/proc/43/comm", "x");
    shm_file("torch_42_1_0", 4096); /* its maker lives */
    shm_file("torch_99_1_0", 4096); /* held by a process that is not of the run */
    holds_fd(43, 5, "torch_99_1_0");
    shm_file("psm_1a2b3c4d", 4096);
    holds_map(43, "psm_1a2b3c4d", 4096);
    shm_file("torch_", 4096);
    shm_file("torch_99", 4096);
    shm_file("torch_99999999999999_x", 4096);
    shm_file("my_data", 4096);
    shm_file("nccl-abc", 4096);
    mkdir(root_full("/dev/shm/psm_folder"), 0700);
    assert_int_equal(leaked(&out), 0);
    assert_int_equal(out.leaked, 0);
    assert_int_equal(out.named_count, 9);
}

/* The real /dev/shm, small files: unlinked at once as torch does, and still held. */
static void test_real__unlinked_and_mapped__counted_for_its_holder(void **s)
{
    struct nng_shm before, after;
    int pid = getpid();
    (void)s;
    nng_probe_root = "";
    nng_devshm_read(&pid, 1, &before);
    if (!before.present)
        skip();
    int fd = shm_open("/nng-unit-held", O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0)
        skip();
    shm_unlink("/nng-unit-held");
    assert_int_equal(ftruncate(fd, 1 << 16), 0);
    char *p = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(p != MAP_FAILED);
    memset(p, 1, 1 << 16);
    nng_devshm_read(&pid, 1, &after);
    assert_int_equal(after.held_by_run - before.held_by_run, 1 << 16);
    assert_int_equal(after.holders, 1);
    close(fd); /* torch closes it too: the mapping alone shows it */
    nng_devshm_read(&pid, 1, &after);
    assert_int_equal(after.held_by_run - before.held_by_run, 1 << 16);
    munmap(p, 1 << 16);
    nng_devshm_read(&pid, 1, &after);
    assert_int_equal(after.held_by_run, before.held_by_run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROOTED(test_read__absent__unknown),
        ROOTED(test_read__fd_and_map_of_two_processes__each_file_once),
        ROOTED(test_read__map_alone__its_length_stands_in),
        ROOTED(test_read__no_processes_given__names_only),
        ROOTED(test_leak__young_file__not_said),
        ROOTED(test_leak__maker_gone_and_nobody_holds__counted),
        ROOTED(test_leak__within_a_pid_namespace__unknown),
        ROOTED(test_leak__maker_lives_or_held_or_foreign_name__not_counted),
        ROOTED(test_real__unlinked_and_mapped__counted_for_its_holder),
    };
    return cmocka_run_group_tests_name("probes: devshm", tests, NULL, NULL);
}
