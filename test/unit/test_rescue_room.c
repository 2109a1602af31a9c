/* SPDX-License-Identifier: MIT
 *
 * How much memory a rescue may take: cgroups v1 and v2, their ancestors, containers, the machine, what
 * others are just taking. The library's file itself, its system calls led into a made-up root.
 */
#include "probes_root.h"

#include "shim/journal/append.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

/* What the file needs of the library. */
#include "shim/preload/fmt.c"
#include "shim/preload/rescue_promise.c"
#include "shim/preload/rescue_room.c"

bool nng_rescue_shm = true;
_Atomic unsigned nng_rescue_written;

static const char *rooted(const char *path, char *full, size_t n)
{
    snprintf(full, n, "%s%s", root_path, path);
    return full;
}

long nng_sys(long n, long a, long b, long c, long d, long e, long f)
{
    char full[1024];
    (void)e, (void)f;
    long r;
    if (n == SYS_openat)
        r = openat((int)a, rooted((const char *)b, full, sizeof full), (int)c, (mode_t)d);
    else if (n == SYS_newfstatat)
        r = fstatat((int)a, rooted((const char *)b, full, sizeof full), (struct stat *)c, (int)d);
    else
        r = syscall(n, a, b, c);
    return r < 0 ? -errno : r;
}

long nng_read_file(const char *path, char *buf, size_t size)
{
    char full[1024];
    int fd = open(rooted(path, full, sizeof full), O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -errno : read(fd, buf, size - 1);
    buf[n > 0 ? n : 0] = 0;
    if (fd >= 0)
        close(fd);
    return n;
}

#define MIB (INT64_C(1) << 20)
#define GIB (INT64_C(1) << 30)

static int begin(void **state)
{
    static struct nng_journal journal;
    memset(&journal.hdr, 0, sizeof journal.hdr);
    memset(journal.segments, 0, sizeof journal.segments);
    memset(journal.promises, 0, sizeof journal.promises);
    nng_journal = &journal;
    int r = root_begin(state);
    put_text("/proc/meminfo", "MemTotal:       16777216 kB\nMemFree:          100 kB\n"
                              "MemAvailable:    8388608 kB\n");
    return r;
}

static int end(void **state)
{
    usleep(110000); /* a measurement is good for a tenth of a second */
    nng_journal = NULL;
    return root_end(state);
}

static void v2(const char *folder, const char *max, const char *current, const char *stat)
{
    char path[256];
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", folder);
    put_text(path, max);
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current", folder);
    put_text(path, current);
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.stat", folder);
    put_text(path, stat);
}

static int64_t room_left, limit;

static bool room(int64_t ask)
{
    room_left = limit = -1;
    return nng_rescue_room(ask, NULL, 0, &room_left, &limit);
}

static void test_machine__half_of_it_free__less_a_twentieth_of_all(void **state)
{
    (void)state;
    assert_true(room(7 * GIB));
    assert_false(room(8 * GIB)); /* 8 available, 0.8 kept back */
    assert_int_equal(limit, 16 * GIB);
    assert_int_equal(room_left, 8 * GIB - 16 * GIB / 20);
}

static void test_v2__own_limit__usage_and_reserve_are_taken_off(void **state)
{
    (void)state;
    put_text("/proc/self/cgroup", "0::/box\n");
    v2("/box", "536870912\n", "134217728\n", "anon 1\nactive_file 9\ninactive_file 0\n");
    assert_true(room(320 * MIB)); /* 512 - 128 - 64 */
    assert_false(room(320 * MIB + 1));
    assert_int_equal(limit, 512 * MIB);
}

static void test_v2__file_pages_that_can_be_dropped__count_as_free(void **state)
{
    (void)state;
    put_text("/proc/self/cgroup", "0::/box\n");
    v2("/box", "536870912\n", "536870912\n", "anon 1\ninactive_file 268435456\nslab 3\n");
    assert_true(room(192 * MIB));
    assert_false(room(193 * MIB));
}

static void test_v2__a_tighter_ancestor__decides(void **state)
{
    (void)state;
    put_text("/proc/self/cgroup", "0::/pod/box\n");
    v2("/pod/box", "max\n", "0\n", "");
    v2("/pod", "1073741824\n", "943718400\n", "inactive_file 0\n");
    assert_false(room(100 * MIB)); /* 124 are left, 64 kept back */
    assert_true(room(60 * MIB));
}

static void test_v2__high_is_a_limit_too(void **state)
{
    (void)state;
    put_text("/proc/self/cgroup", "0::/box\n");
    v2("/box", "max\n", "0\n", "inactive_file 0\n");
    put_text("/sys/fs/cgroup/box/memory.high", "268435456\n");
    assert_false(room(200 * MIB));
    assert_true(room(190 * MIB));
}

static void test_v1__no_limit_is_a_large_number(void **state)
{
    (void)state;
    put_text("/proc/self/cgroup", "4:memory:/job\n1:cpu:/\n0::/\n");
    put_text("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n");
    put_text("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1\n");
    put_text("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_true(room(6 * GIB));
}

static void test_v1__path_of_the_host_in_a_container__the_mount_is_the_group(void **state)
{
    (void)state;
    put_text("/proc/self/cgroup", "4:memory:/docker/0123456789abcdef\n");
    put_text("/sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n");
    put_text("/sys/fs/cgroup/memory/memory.usage_in_bytes", "134217728\n");
    put_text("/sys/fs/cgroup/memory/memory.stat",
             "inactive_file 1\nhierarchical_memory_limit 5\ntotal_inactive_file 33554432\n");
    assert_true(room(96 * MIB)); /* 128 + 32 - 64 */
    assert_false(room(97 * MIB));
}

static void test_long_memory_stat__the_key_lies_beyond_the_first_piece(void **state)
{
    static char stat[8192];
    size_t n = 0;
    (void)state;
    for (int i = 0; n < 6000; i++)
        n += (size_t)snprintf(stat + n, sizeof stat - n, "some_long_counter_%d %d\n", i, i * 1000);
    snprintf(stat + n, sizeof stat - n, "inactive_file 104857600\nlast 1\n");
    put_text("/proc/self/cgroup", "0::/box\n");
    v2("/box", "268435456\n", "268435456\n", stat);
    assert_true(room(36 * MIB));
    assert_false(room(37 * MIB));
}

static void test_others_are_taking__counts_while_they_live(void **state)
{
    (void)state;
    put_text("/proc/self/cgroup", "0::/box\n");
    v2("/box", "536870912\n", "0\n", "inactive_file 0\n"); /* 448 */
    nng_journal->segments[3] = (struct nng_segment){.pid = (uint32_t)getpid(), .size = 300 * MIB};
    atomic_store(&nng_journal->segments[3].state, NNG_SG_FILLING);
    atomic_store(&nng_journal->hdr.rescue_top, 8);
    assert_false(room(200 * MIB));
    assert_true(room(140 * MIB));
    nng_journal->segments[3].pid = 0x3fffff; /* no such process: it died at it */
    assert_true(room(200 * MIB));
}

static void test_given_and_not_used__counts_but_for_the_file_itself(void **state)
{
    (void)state;
    int64_t r, l;
    put_text("/proc/self/cgroup", "0::/box\n");
    v2("/box", "536870912\n", "0\n", "inactive_file 0\n"); /* 448 */
    nng_promise_add(3, 4711, 200 * MIB, true);
    nng_promise_add(3, 4711, 300 * MIB, true); /* it has grown: one entry */
    assert_int_equal(nng_promised_memory(0), 300 * MIB);
    assert_false(room(200 * MIB));
    assert_int_equal(room_left, 148 * MIB);
    assert_true(room(140 * MIB));
    assert_true(nng_rescue_room(200 * MIB, NULL, 4711, &r, &l));
    nng_promise_add(4, 4712, 300 * MIB, false); /* of /dev/shm */
    assert_true(room(140 * MIB));
}

static void test_given_long_ago_and_out_of_sight__no_longer_counts(void **state)
{
    (void)state;
    uint64_t ticket = nng_promise_add(3, 4711, 300 * MIB, true);
    nng_journal->promises[ticket % NNG_PROMISES_N].time_ns -= 31000000000u;
    assert_int_equal(nng_promised_memory(0), 0);
    assert_int_equal(atomic_load(&nng_journal->promises[ticket % NNG_PROMISES_N].ticket), 0);
}

static void test_within_a_tenth_of_a_second__what_was_rescued_since_is_taken_off(void **state)
{
    (void)state;
    put_text("/proc/self/cgroup", "0::/box\n");
    v2("/box", "536870912\n", "0\n", "inactive_file 0\n"); /* 448 */
    assert_true(room(400 * MIB));
    v2("/box", "536870912\n", "419430400\n", "inactive_file 0\n"); /* 48 now */
    atomic_fetch_add(&nng_journal->hdr.rescue_bytes, 400 * MIB);
    assert_true(room(40 * MIB));
    assert_false(room(100 * MIB));
}

static void test_nonsense__is_not_believed(void **state)
{
    (void)state;
    put_text("/proc/self/cgroup", "\n:::\n0::\n4:memory\nx");
    assert_true(room(GIB));
    assert_false(room(-1));
    put_text("/proc/self/cgroup", "0::/box\n");
    v2("/box", "twelve\n", "", "");
    assert_true(room(GIB));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        T(test_machine__half_of_it_free__less_a_twentieth_of_all),
        T(test_v2__own_limit__usage_and_reserve_are_taken_off),
        T(test_v2__file_pages_that_can_be_dropped__count_as_free),
        T(test_v2__a_tighter_ancestor__decides),
        T(test_v2__high_is_a_limit_too),
        T(test_v1__no_limit_is_a_large_number),
        T(test_v1__path_of_the_host_in_a_container__the_mount_is_the_group),
        T(test_long_memory_stat__the_key_lies_beyond_the_first_piece),
        T(test_others_are_taking__counts_while_they_live),
        T(test_given_and_not_used__counts_but_for_the_file_itself),
        T(test_given_long_ago_and_out_of_sight__no_longer_counts),
        T(test_within_a_tenth_of_a_second__what_was_rescued_since_is_taken_off),
        T(test_nonsense__is_not_believed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
