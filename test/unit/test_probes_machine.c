/* SPDX-License-Identifier: MIT */
#include "probes_root.h"

static struct nng_machine m;

static void look(const char *env, size_t env_n, const char *command, size_t command_n)
{
    nng_machine_read(env, env_n, command, command_n, &m);
}
#define LOOK(env, command) look(env, sizeof(env), command, sizeof(command))

static void line(const char *command, size_t n, const char *expect)
{
    look("", 0, command, n);
    assert_string_equal(m.trainer, expect);
}
#define LINE(command, expect) line(command, sizeof(command), expect)

static void test_trainer__console_script__its_name_alone(void **s)
{
    (void)s;
    LINE("/venv/bin/python\0/venv/bin/nnUNetv2_train\0001\0002d\0000", "nnUNetv2_train 1 2d 0");
    assert_true(m.nnunet);
    LINE("/venv/bin/nnUNetv2_train\0001\0002d\0000", "nnUNetv2_train 1 2d 0");
    assert_true(m.nnunet);
    LINE("/usr/bin/python3.11\0-u\0/opt/bin/torchrun\0train.py", "torchrun train.py");
    assert_false(m.nnunet);
}

static void test_trainer__script_and_module__interpreter_stays(void **s)
{
    (void)s;
    LINE("/usr/bin/python3\0train.py\0--lr\0001e-3", "python3 train.py --lr 1e-3");
    LINE("python\0-u\0-X\0dev\0src/train.py", "python -u -X dev src/train.py");
    LINE("python\0-m\0pkg.train\0--x\0-m\0y", "python -m pkg.train --x -m y");
    LINE("python\0-m\0nnunetv2.run.run_training\0001", "python -m nnunetv2.run.run_training 1");
    LINE("python\0train", "python train");
    LINE("python", "python");
    LINE("", "");
    LINE("python\0t.py\0\0\0\0\0\0", "python t.py"); /* padded, as the journal's field is */
}

static void test_trainer__odd_arguments__quoted(void **s)
{
    (void)s;
    LINE("python\0t.py\0a b\0\0it's\0$HOME\0*", "python t.py 'a b' '' 'it'\\''s' '$HOME' '*'");
    LINE("python\0-c\0import x\nx()", "python -c 'import x x()'");
}

static void test_trainer__long_or_torn__cut_at_120(void **s)
{
    char big[2000];
    (void)s;
    memset(big, 'a', sizeof big);
    big[6] = '\0';
    memcpy(big, "python", 6);
    look("", 0, big, sizeof big); /* last argument not terminated: dropped */
    assert_string_equal(m.trainer, "python...");
    big[sizeof big - 1] = '\0';
    look("", 0, big, sizeof big);
    assert_int_equal(strlen(m.trainer), 120);
    assert_string_equal(m.trainer + 117, "...");
    static char field[1024] = "python\0train.py";
    memset(field + 16, 'b', sizeof field - 16);
    for (size_t i = 40; i < sizeof field; i += 16)
        field[i] = '\0';
    field[sizeof field - 1] = field[sizeof field - 2] = '\0';
    look("", 0, field, sizeof field);
    assert_non_null(strstr(m.trainer, "..."));
    look("", 0, NULL, 0);
    assert_string_equal(m.trainer, "");
}

static void test_trainer__long_utf8__no_half_character(void **s)
{
    char big[400];
    (void)s;
    memcpy(big, "python\0x.py\0", 12);
    for (size_t i = 12; i + 3 < sizeof big; i += 3)
        memcpy(big + i, "\xe4\xb8\xad", 3);
    big[396] = '\0';
    look("", 0, big, 397);
    size_t n = strlen(m.trainer);
    assert_true(n <= 120 && n > 3);
    assert_string_equal(m.trainer + n - 3, "...");
    assert_true((m.trainer[n - 4] & 0x80) == 0 || n % 3 == 0 || n > 0);
    for (size_t i = 0; i < n; i++) /* every lead byte has its two followers */
        if (((unsigned char)m.trainer[i] & 0xf0) == 0xe0)
            assert_true(((unsigned char)m.trainer[i + 1] & 0xc0) == 0x80 &&
                        ((unsigned char)m.trainer[i + 2] & 0xc0) == 0x80);
}

static void place(const char *env, size_t n, enum nng_place expect, const char *detail)
{
    look(env, n, "", 0);
    assert_int_equal(m.place, expect);
    if (detail)
        assert_string_equal(m.place_detail, detail);
}
#define PLACE(env, expect, detail) place(env, sizeof(env), expect, detail)

static void test_place__by_environment(void **s)
{
    (void)s;
    PLACE("KUBERNETES_SERVICE_HOST=10.0.0.1", NNG_PL_KUBERNETES, NULL);
    PLACE("SLURM_JOB_ID=8812", NNG_PL_SLURM, "Slurm job 8812");
    PLACE("SLURM_JOB_ID=", NNG_PL_HOST, NULL);
    PLACE("SLURM_JOB_ID=abc", NNG_PL_HOST, NULL);
    PLACE("APPTAINER_NAME=torch.sif", NNG_PL_APPTAINER, "torch.sif");
    PLACE("SINGULARITY_NAME=t.sif", NNG_PL_APPTAINER, "t.sif");
    PLACE("SLURM_JOB_ID=7\0APPTAINER_NAME=torch.sif", NNG_PL_SLURM, "Slurm job 7, Apptainer");
    PLACE("container=podman", NNG_PL_DOCKER, "podman");
    PLACE("XKUBERNETES_SERVICE_HOST=1", NNG_PL_HOST, NULL);
}

static void test_place__docker_file(void **s)
{
    (void)s;
    put_text("/.dockerenv", "");
    PLACE("", NNG_PL_DOCKER, "docker");
    PLACE("KUBERNETES_SERVICE_HOST=10.0.0.1", NNG_PL_KUBERNETES, NULL);
    PLACE("SLURM_JOB_ID=7", NNG_PL_SLURM, "Slurm job 7, container");
}

static void test_place__podman_file(void **s)
{
    (void)s;
    put_text("/run/.containerenv", "");
    PLACE("", NNG_PL_DOCKER, "podman");
}

static void test_place__by_cgroup(void **s)
{
    (void)s;
    put_text("/proc/1/cgroup", "4:memory:/docker/0123abcd\n");
    PLACE("", NNG_PL_DOCKER, "docker");
    put_text("/proc/1/cgroup", "4:memory:/kubepods/burstable/pod1/c\n");
    PLACE("", NNG_PL_KUBERNETES, NULL);
    put_text("/proc/1/cgroup", "0::/init.scope\n");
    PLACE("", NNG_PL_HOST, "");
    put_text("/proc/self/cgroup", "4:memory:/slurm/uid_1000/job_8812/step_0\n");
    PLACE("", NNG_PL_SLURM, "Slurm job 8812");
}

static void test_env__copied_and_bounded(void **s)
{
    char big[5000];
    (void)s;
    LOOK("nnUNet_n_proc_DA=12\0OMP_NUM_THREADS=1", "");
    assert_int_equal(m.n_proc_da, 12);
    assert_string_equal(m.env, "nnUNet_n_proc_DA=12");
    assert_string_equal(m.env + 20, "OMP_NUM_THREADS=1");
    assert_int_equal(m.env[38], '\0');
    LOOK("nnUNet_n_proc_DA=lots", "");
    assert_int_equal(m.n_proc_da, -1);
    memset(big, 'a', sizeof big);
    look(big, sizeof big, "", 0); /* torn and too large */
    assert_string_equal(m.env, "");
    assert_int_equal(m.env[sizeof m.env - 1], '\0');
}

static void test_machine__real__plausible(void **s)
{
    (void)s;
    nng_probe_root = "";
    LOOK("", "x");
    assert_true(m.cpus >= 1);
    assert_true(strlen(m.kernel) > 3);
    assert_true(m.libc[0] == '\0' || !strncmp(m.libc, "glibc 2.", 8));
}

static void test_libc__version_from_the_file(void **s)
{
    static char file[70000];
    (void)s;
    const char text[] = "GNU C Library (Debian GLIBC 2.31-13) stable release version 2.31.\nmore";
    memset(file, 'x', sizeof file);
    memcpy(file + 65536 - 40, text, sizeof text); /* across the reader's pieces */
    put_bytes("/lib64/libc.so.6", file, sizeof file);
    LOOK("", "x");
    assert_string_equal(m.libc, "glibc 2.31");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROOTED(test_trainer__console_script__its_name_alone),
        ROOTED(test_trainer__script_and_module__interpreter_stays),
        ROOTED(test_trainer__odd_arguments__quoted),
        ROOTED(test_trainer__long_or_torn__cut_at_120),
        ROOTED(test_trainer__long_utf8__no_half_character),
        ROOTED(test_place__by_environment),
        ROOTED(test_place__docker_file),
        ROOTED(test_place__podman_file),
        ROOTED(test_place__by_cgroup),
        ROOTED(test_env__copied_and_bounded),
        ROOTED(test_machine__real__plausible),
        ROOTED(test_libc__version_from_the_file),
    };
    return cmocka_run_group_tests_name("probes: machine", tests, NULL, NULL);
}
