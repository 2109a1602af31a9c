/* SPDX-License-Identifier: MIT */
#include "probes_root.h"

#define V1_MOUNT                                                                                   \
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"                                            \
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"          \
    "39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n"                       \
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"

static void v1_group(const char *folder, const char *limit, const char *failcnt, const char *kills)
{
    char path[256], text[128];
    const char *const files[][2] = {{"cgroup.procs", "42\n"},
                                    {"memory.usage_in_bytes", "4096\n"},
                                    {"memory.limit_in_bytes", limit},
                                    {"memory.max_usage_in_bytes", "8192\n"},
                                    {"memory.memsw.limit_in_bytes", limit},
                                    {"memory.failcnt", failcnt}};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i][0]);
        put_text(path, files[i][1]);
    }
    snprintf(path, sizeof path, "%s/memory.oom_control", folder);
    snprintf(text, sizeof text, "oom_kill_disable 0\nunder_oom 0\noom_kill %s\n", kills);
    put_text(path, text);
}

static void v2_group(const char *folder, const char *max, const char *events, const char *local)
{
    char path[256];
    const char *const files[][2] = {{"cgroup.procs", "42\n"},  {"memory.current", "4096\n"},
                                    {"memory.max", max},       {"memory.swap.max", "0\n"},
                                    {"memory.peak", "8192\n"}, {"memory.oom.group", "1\n"},
                                    {"memory.events", events}, {"memory.events.local", local}};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        if (!files[i][1])
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, files[i][0]);
        put_text(path, files[i][1]);
    }
}

static void test_v1__hybrid__memory_of_v1_is_taken(void **s)
{
    struct nng_cgroup cg;
    struct nng_cgmem m;
    (void)s;
    put_text("/proc/self/mountinfo", V1_MOUNT);
    put_text("/proc/42/cgroup", "9:name=systemd:/x\n8:pids:/\n4:memory:/job/w\n0::/elsewhere\n");
    v1_group("/sys/fs/cgroup/memory/job/w", "1048576\n", "3\n", "2");
    put_text("/sys/fs/cgroup/pids/cgroup.procs", "42\n");
    assert_int_equal(nng_cgroup_find(42, &cg), 0);
    assert_int_equal(cg.version, 1);
    assert_string_equal(cg.mem, "/sys/fs/cgroup/memory/job/w");
    assert_string_equal(cg.mem_top, "/sys/fs/cgroup/memory");
    assert_int_equal(nng_cgroup_mem(cg.mem, cg.version, &m), 0);
    assert_int_equal(m.usage, 4096);
    assert_int_equal(m.limit, 1048576);
    assert_int_equal(m.swap_limit, 0);
    assert_int_equal(m.peak, 8192);
    assert_int_equal(m.kills, 2);
    assert_int_equal(m.fails, 3);
    assert_false(m.group);
    assert_int_equal(m.oomd, -1);
}

static void test_v1__no_limit__minus_one(void **s)
{
    struct nng_cgmem m;
    (void)s;
    v1_group("/g", "9223372036854771712\n", "0\n", "0");
    assert_int_equal(nng_cgroup_mem("/g", 1, &m), 0);
    assert_int_equal(m.limit, -1);
    assert_int_equal(m.swap_limit, -1);
    assert_int_equal(m.kills, 0);
}

static void test_v1__container_path_not_below_mount__mount_is_own_group(void **s)
{
    struct nng_cgroup cg;
    (void)s;
    put_text("/proc/self/mountinfo",
             "35 31 0:32 /kubepods/pod1/c1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
    put_text("/proc/42/cgroup", "4:memory:/system.slice/containerd.service/kubepods/pod1/c1\n");
    v1_group("/sys/fs/cgroup/memory", "1048576\n", "0\n", "0");
    assert_int_equal(nng_cgroup_find(42, &cg), 0);
    assert_int_equal(cg.version, 1);
    assert_string_equal(cg.mem, "/sys/fs/cgroup/memory");
}

static void test_v1__docker_bind_of_own_group__rest_of_the_path_below_it(void **s)
{
    struct nng_cgroup cg;
    (void)s;
    put_text("/proc/self/mountinfo",
             "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
    put_text("/proc/42/cgroup", "4:memory:/docker/abc/inner\n");
    v1_group("/sys/fs/cgroup/memory", "1048576\n", "0\n", "0");
    v1_group("/sys/fs/cgroup/memory/inner", "524288\n", "0\n", "0");
    assert_int_equal(nng_cgroup_find(42, &cg), 0);
    assert_string_equal(cg.mem, "/sys/fs/cgroup/memory/inner");
}

/* The whole hierarchy is mounted, the path is not there, and the process is not listed: its counters
 * are unknown, and those of the root group would be a stranger's. */
static void test_v1__path_missing_in_full_hierarchy__unknown(void **s)
{
    struct nng_cgroup cg;
    (void)s;
    put_text("/proc/self/mountinfo", V1_MOUNT);
    put_text("/proc/43/cgroup", "4:memory:/gone\n");
    v1_group("/sys/fs/cgroup/memory", "1048576\n", "0\n", "0"); /* lists 42 */
    assert_int_equal(nng_cgroup_find(43, &cg), 0);
    assert_int_equal(cg.version, 0);
    put_text("/proc/42/cgroup", "4:memory:/gone\n");
    assert_int_equal(nng_cgroup_find(42, &cg), 0);
    assert_string_equal(cg.mem, "/sys/fs/cgroup/memory");
}

static void test_v2__namespace_outside__unknown(void **s)
{
    struct nng_cgroup cg;
    (void)s;
    put_text("/proc/self/mountinfo", "35 31 0:32 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    put_text("/proc/43/cgroup", "0::/../other\n");
    v2_group("/sys/fs/cgroup", "max\n", NULL, NULL);
    assert_int_equal(nng_cgroup_find(43, &cg), 0);
    assert_int_equal(cg.version, 0);
}

static void test_v2__controller_off_in_leaf__nearest_with_files(void **s)
{
    struct nng_cgroup cg;
    struct nng_cgmem m;
    (void)s;
    put_text("/proc/self/mountinfo", "35 31 0:32 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    put_text("/proc/42/cgroup", "0::/slice/scope/leaf\n");
    put_text("/sys/fs/cgroup/slice/scope/leaf/cgroup.procs", "42\n");
    v2_group("/sys/fs/cgroup/slice/scope", "1048576\n", "low 0\nmax 9\noom 9\noom_kill 9\n",
             "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n");
    put_text("/sys/fs/cgroup/slice/pids.current", "5\n");
    assert_int_equal(nng_cgroup_find(42, &cg), 0);
    assert_int_equal(cg.version, 2);
    assert_string_equal(cg.mem, "/sys/fs/cgroup/slice/scope");
    assert_int_equal(cg.pids_version, 2);
    assert_string_equal(cg.pids, "/sys/fs/cgroup/slice");
    assert_int_equal(nng_cgroup_mem(cg.mem, 2, &m), 0);
    assert_int_equal(m.kills, 1);
    assert_int_equal(m.fails, 5);
    assert_int_equal(m.limit, 1048576);
    assert_int_equal(m.swap_limit, 0);
    assert_true(m.group);
}

static void test_v2__no_local_events__hierarchical_only_in_a_leaf(void **s)
{
    struct nng_cgmem m;
    (void)s;
    v2_group("/g", "max\n", "max 1\noom 1\noom_kill 4\n", NULL);
    assert_int_equal(nng_cgroup_mem("/g", 2, &m), 0);
    assert_int_equal(m.kills, 4);
    assert_int_equal(m.limit, -1);
    put_text("/g/child/cgroup.procs", "");
    assert_int_equal(nng_cgroup_mem("/g", 2, &m), 0);
    assert_int_equal(m.kills, -1); /* could be a kill in the child */
}

static void test_mountinfo__escapes_and_several_mounts__fitting_one_wins(void **s)
{
    struct nng_cgroup cg;
    (void)s;
    put_text("/proc/self/mountinfo", "garbage\n\n36 31 0:32\n"
                                     "35 31 0:32 / /mnt/my\\040cg rw - cgroup cgroup rw,memory\n"
                                     "36 31 0:32 /other /mnt/other rw - cgroup cgroup rw,memory\n"
                                     "37 31 0:33 / /mnt/cpu rw - cgroup cgroup rw,cpu\n");
    put_text("/proc/42/cgroup", "4:memory:/job\n");
    v1_group("/mnt/my cg/job", "1048576\n", "0\n", "0");
    assert_int_equal(nng_cgroup_find(42, &cg), 0);
    assert_string_equal(cg.mem, "/mnt/my cg/job");
}

static void test_find__gone_or_without_controller__said(void **s)
{
    struct nng_cgroup cg;
    (void)s;
    assert_int_equal(nng_cgroup_find(42, &cg), -ESRCH);
    put_text("/proc/42/cgroup", "");
    assert_int_equal(nng_cgroup_find(42, &cg), 0);
    assert_int_equal(cg.version, 0);
    put_text("/proc/42/cgroup", "::::\n4:memory\n4:memory:relative\n:\n0::/x\n");
    assert_int_equal(nng_cgroup_find(42, &cg), 0);
    assert_int_equal(cg.version, 0);
}

static void test_find__path_longer_than_room__unknown_not_cut(void **s)
{
    struct nng_cgroup cg;
    static char line[2048];
    (void)s;
    put_text("/proc/self/mountinfo", V1_MOUNT);
    strcpy(line, "4:memory:/");
    memset(line + strlen(line), 'a', 1500);
    put_text("/proc/42/cgroup", line);
    assert_int_equal(nng_cgroup_find(42, &cg), 0);
    assert_int_equal(cg.version, 0);
}

static void test_chain__own_first_up_to_the_mount(void **s)
{
    struct nng_cgroup cg = {.version = 1, .mem = "/m/a/b", .mem_top = "/m"};
    struct nng_cglevel level[4];
    (void)s;
    v1_group("/m", "9223372036854771712\n", "0\n", "0");
    v1_group("/m/a", "1048576\n", "7\n", "0");
    v1_group("/m/a/b", "9223372036854771712\n", "0\n", "1");
    assert_int_equal(nng_cgroup_chain(&cg, level, 4), 3);
    assert_string_equal(level[0].folder, "/m/a/b");
    assert_int_equal(level[0].mem.kills, 1);
    assert_string_equal(level[1].folder, "/m/a");
    assert_int_equal(level[1].mem.fails, 7);
    assert_string_equal(level[2].folder, "/m");
    assert_int_equal(nng_cgroup_chain(&cg, level, 2), 2);
}

static void test_procs__bounded(void **s)
{
    int pids[4];
    (void)s;
    put_text("/g/cgroup.procs", "1\n22\n333\n");
    assert_int_equal(nng_cgroup_procs("/g", pids, 4), 3);
    assert_int_equal(pids[2], 333);
    assert_int_equal(nng_cgroup_procs("/g", pids, 2), 2);
    assert_int_equal(nng_cgroup_procs("/none", pids, 4), -ENOENT);
}

static void test_procs__groups_below_without_the_controller__counted(void **s)
{
    int pids[8];
    (void)s;
    put_text("/g/memory.current", "4096\n");
    put_text("/g/cgroup.procs", "1\n");
    put_text("/g/off/cgroup.procs", "22\n");
    put_text("/g/off/deeper/cgroup.procs", "333\n");
    put_text("/g/on/memory.current", "4096\n");
    put_text("/g/on/cgroup.procs", "4444\n");
    assert_int_equal(nng_cgroup_procs("/g", pids, 8), 3);
    for (int i = 0; i < 3; i++)
        assert_int_not_equal(pids[i], 4444);
    put_text("/g/off/a/b/c/d/e/f/g/h/cgroup.procs", "5\n");
    assert_true(nng_cgroup_procs("/g", pids, 8) < 0);
}

static void test_procs__of_another_pid_namespace__unknown(void **s)
{
    int pids[8];
    (void)s;
    put_text("/g/cgroup.procs", "1\n0\n");
    assert_int_equal(nng_cgroup_procs("/g", pids, 8), -EXDEV);
}

static void test_pids__limit_with_least_room_wins(void **s)
{
    struct nng_cgroup cg = {.pids_version = 2, .pids = "/p/a/b", .pids_top = "/p"};
    int64_t max, current, events;
    char path[64];
    (void)s;
    put_text("/p/a/b/pids.max", "100\n");
    put_text("/p/a/b/pids.current", "10\n");
    put_text("/p/a/b/pids.events", "max 2\n");
    put_text("/p/a/pids.max", "20\n");
    put_text("/p/a/pids.current", "20\n");
    put_text("/p/a/pids.events", "max 6\n");
    put_text("/p/pids.max", "max\n");
    assert_int_equal(nng_cgroup_pids(&cg, &max, &current, &events, path, sizeof path), 0);
    assert_int_equal(max, 20);
    assert_int_equal(current, 20);
    assert_int_equal(events, 8); /* a rise shows, wherever this kernel counts it */
    assert_string_equal(path, "/p/a");
    put_text("/p/a/pids.max", "max\n");
    put_text("/p/a/b/pids.max", "max\n");
    assert_int_equal(nng_cgroup_pids(&cg, &max, &current, &events, path, sizeof path), 0);
    assert_int_equal(max, -1);
    assert_int_equal(current, 10);
}

static void test_real__own_cgroup__found_and_lists_us(void **s)
{
    struct nng_cgroup cg;
    struct nng_cgmem m;
    int pids[1024];
    bool listed = false;
    (void)s;
    nng_probe_root = "";
    assert_int_equal(nng_cgroup_find(getpid(), &cg), 0);
    if (!cg.version)
        skip();
    assert_int_equal(nng_cgroup_mem(cg.mem, cg.version, &m), 0);
    int n = nng_cgroup_procs(cg.mem, pids, 1024);
    for (int i = 0; i < n; i++)
        listed |= pids[i] == getpid();
    assert_true(listed || n == 1024);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROOTED(test_v1__hybrid__memory_of_v1_is_taken),
        ROOTED(test_v1__no_limit__minus_one),
        ROOTED(test_v1__container_path_not_below_mount__mount_is_own_group),
        ROOTED(test_v1__docker_bind_of_own_group__rest_of_the_path_below_it),
        ROOTED(test_v1__path_missing_in_full_hierarchy__unknown),
        ROOTED(test_v2__namespace_outside__unknown),
        ROOTED(test_v2__controller_off_in_leaf__nearest_with_files),
        ROOTED(test_v2__no_local_events__hierarchical_only_in_a_leaf),
        ROOTED(test_mountinfo__escapes_and_several_mounts__fitting_one_wins),
        ROOTED(test_find__gone_or_without_controller__said),
        ROOTED(test_find__path_longer_than_room__unknown_not_cut),
        ROOTED(test_chain__own_first_up_to_the_mount),
        ROOTED(test_procs__bounded),
        ROOTED(test_procs__groups_below_without_the_controller__counted),
        ROOTED(test_procs__of_another_pid_namespace__unknown),
        ROOTED(test_pids__limit_with_least_room_wins),
        ROOTED(test_real__own_cgroup__found_and_lists_us),
    };
    return cmocka_run_group_tests_name("probes: cgroup", tests, NULL, NULL);
}
