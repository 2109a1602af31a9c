/* SPDX-License-Identifier: MIT
 *
 * What kind of place this is, because a remedy is only good where it can be carried out: the size
 * of /dev/shm is an option of docker run, a field of a pod, or out of the user's hands. What limits the
 * memory decides: a Slurm job in a container is a Slurm job, since the job's cgroup lies around
 * it. The environment is the trainer's (from the journal), files are this machine's.
 */
#include "../shim/causes/text.h"
#include "probes.h"
#include "read.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#define TRAINER_MAX 120
#define LIBC_MAX (4u << 20)

/* ---- environment ------------------------------------------------------------------------------ */
static void copy_env(struct nng_machine *m, const char *env, size_t n)
{
    size_t have = 0;

    for (size_t i = 0; i < n;) {
        size_t len = strnlen(env + i, n - i);
        if (len && i + len < n && have + len + 2 <= sizeof m->env) {
            memcpy(m->env + have, env + i, len);
            have += len + 1;
        }
        i += len + 1;
    }
}

static const char *value(const struct nng_machine *m, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = m->env; *p; p += strlen(p) + 1)
        if (!strncmp(p, name, n) && p[n] == '=')
            return p[n + 1] ? p + n + 1 : NULL;
    return NULL;
}

/* ---- place ------------------------------------------------------------------------------------ */
static bool exists(const char *file)
{
    char path[512];
    return nng_probes_path(path, sizeof path, "%s", file) && access(path, F_OK) == 0;
}

static bool root_is_overlay(void)
{
    char path[64];
    struct statfs fs;
    return nng_probes_path(path, sizeof path, "/") && statfs(path, &fs) == 0 &&
           (unsigned long)fs.f_type == 0x794c7630UL;
}

static void container(struct nng_machine *m, const char *cgroups)
{
    const char *apptainer = value(m, "APPTAINER_NAME"), *kind = value(m, "container");

    if (!apptainer)
        apptainer = value(m, "SINGULARITY_NAME");
    if (value(m, "KUBERNETES_SERVICE_HOST") || strstr(cgroups, "kubepods") ||
        exists("/var/run/secrets/kubernetes.io")) {
        m->place = NNG_PL_KUBERNETES;
    } else if (apptainer || exists("/.singularity.d")) {
        m->place = NNG_PL_APPTAINER;
        if (apptainer)
            nng_text_clean_line(m->place_detail, sizeof m->place_detail, apptainer,
                                strlen(apptainer));
    } else if (exists("/run/.containerenv") || strstr(cgroups, "libpod") ||
               (kind && !strcmp(kind, "podman"))) {
        m->place = NNG_PL_DOCKER;
        snprintf(m->place_detail, sizeof m->place_detail, "podman");
    } else if (exists("/.dockerenv") || strstr(cgroups, "/docker")) {
        m->place = NNG_PL_DOCKER;
        snprintf(m->place_detail, sizeof m->place_detail, "docker");
    } else if (strstr(cgroups, "/lxc") || strstr(cgroups, "containerd") || root_is_overlay()) {
        m->place = NNG_PL_DOCKER; /* some container: the remedies are written for the commonest */
        snprintf(m->place_detail, sizeof m->place_detail, "container");
    }
}

static void find_place(struct nng_machine *m)
{
    static const char *const names[] = {"host", "container", "Kubernetes", "Slurm", "Apptainer"};
    const char *job = value(m, "SLURM_JOB_ID");
    char own[4096], init[4096], digits[24] = "";
    const char *in_cgroup;

    m->place = NNG_PL_HOST;
    if (nng_probes_slurp("/proc/self/cgroup", own, sizeof own) < 0)
        own[0] = '\0';
    if (nng_probes_slurp("/proc/1/cgroup", init, sizeof init) < 0)
        init[0] = '\0';
    container(m, own);
    if (m->place == NNG_PL_HOST)
        container(m, init);
    if (!job && strstr(own, "slurm") && (in_cgroup = strstr(own, "/job_")))
        job = in_cgroup + 5;
    for (size_t i = 0; job && isdigit((unsigned char)job[i]) && i < sizeof digits - 1; i++) {
        digits[i] = job[i];
        digits[i + 1] = '\0';
    }
    if (!*digits)
        return;
    if (m->place == NNG_PL_HOST)
        snprintf(m->place_detail, sizeof m->place_detail, "Slurm job %s", digits);
    else
        snprintf(m->place_detail, sizeof m->place_detail, "Slurm job %s, %s", digits,
                 names[m->place]);
    m->place = NNG_PL_SLURM;
}

/* ---- command ---------------------------------------------------------------------------------- */
struct args { /* cursor over NUL separated arguments */
    const char *p, *end;
};

static const char *next(struct args *a)
{
    if (a->p >= a->end)
        return NULL;
    const char *s = a->p;
    size_t len = strnlen(s, (size_t)(a->end - s));
    if (s + len == a->end)
        return a->p = a->end, NULL; /* not terminated: torn */
    a->p = s + len + 1;
    return s;
}

static const char *base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static bool is_python(const char *name)
{
    const char *p;

    if (!strncmp(name, "python", 6))
        p = name + 6;
    else if (!strncmp(name, "pypy", 4))
        p = name + 4;
    else
        return false;
    return p[strspn(p, "0123456789.")] == '\0';
}

struct line {
    char text[1024];
    size_t n;
    bool cut;
};

static void add(struct line *l, const char *s, size_t n)
{
    if (n > sizeof l->text - 1 - l->n) {
        n = sizeof l->text - 1 - l->n;
        l->cut = true;
    }
    memcpy(l->text + l->n, s, n);
    l->n += n;
    l->text[l->n] = '\0';
}

/* Quoted so that a shell reads it back as one word. */
static void add_word(struct line *l, const char *w)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "@%_-+=:,./";
    if (l->n)
        add(l, " ", 1);
    size_t bare = strspn(w, plain);
    if (*w && (w[bare] == '\0')) {
        add(l, w, bare);
        return;
    }
    add(l, "'", 1);
    for (; *w; w++) {
        if (*w == '\'')
            add(l, "'\\''", 4);
        else
            add(l, w, 1);
    }
    add(l, "'", 1);
}

/* Interpreter options that come before the program; some take their value as the next word. */
static const char *skip_options(struct args *a, struct line *l, const char *w)
{
    while (w && w[0] == '-' && w[1] && strcmp(w, "-m") && strcmp(w, "-c")) {
        add_word(l, w);
        if (!strcmp(w, "-X") || !strcmp(w, "-W")) {
            w = next(a);
            if (w)
                add_word(l, w);
        }
        w = next(a);
    }
    return w;
}

static bool console_script(const char *w) /* /venv/bin/nnUNetv2_train, but not train.py */
{
    size_t n = strlen(w);
    return strchr(w, '/') && !(n > 3 && !strcmp(w + n - 3, ".py")) &&
           !(n > 4 && !strcmp(w + n - 4, ".pyc"));
}

/* The journal's field is padded with NULs; one that is full was cut. */
static size_t unpadded(const char *command, size_t n)
{
    size_t used = n;
    while (used && !command[used - 1])
        used--;
    return used && used < n ? used + 1 : used;
}

static void trainer_line(struct nng_machine *m, const char *command, size_t n)
{
    size_t used = unpadded(command, n);
    struct args a = {command, command + used};
    struct line l = {.n = 0, .cut = n >= sizeof((struct nng_header *)0)->command && used + 1 >= n};
    const char *w = next(&a);

    if (w && is_python(base(w))) {
        struct line opts = {.n = 0};
        add_word(&opts, base(w));
        w = skip_options(&a, &opts, next(&a));
        if (w && *w != '-' && console_script(w)) {
            add_word(&l, base(w));
            w = next(&a);
        } else {
            opts.cut |= l.cut;
            l = opts;
        }
    } else if (w) {
        add_word(&l, base(w));
        w = next(&a);
    }
    for (; w; w = next(&a))
        add_word(&l, w);
    size_t len = nng_text_clean_line(m->trainer, sizeof m->trainer, l.text,
                                     l.n > TRAINER_MAX ? TRAINER_MAX - 3 : l.n);
    if (l.n > TRAINER_MAX || l.cut) {
        while (len && ((unsigned char)m->trainer[len - 1] & 0x80))
            len--; /* no half character */
        snprintf(m->trainer + len, sizeof m->trainer - len, "...");
    }
}

static bool shows_nnunet(const char *command, size_t n)
{
    struct args a = {command, command + n};
    for (const char *w; (w = next(&a));)
        if (!strncmp(base(w), "nnUNet", 6))
            return true;
    return false;
}

/* ---- versions --------------------------------------------------------------------------------- */
/* This program is static: its own libc says nothing about the trainer's. */
static bool libc_of(const char *file, struct nng_machine *m)
{
    static const char mark[] = "GNU C Library ", release[] = "release version ";
    char path[512];
    char *buf = NULL;
    bool found = false;

    if (!nng_probes_path(path, sizeof path, "%s", file))
        return false;
    int fd = nng_probes_open(path);
    if (fd < 0)
        return false;
    const size_t chunk = 65536, overlap = 256;
    if ((buf = malloc(chunk + overlap)) != NULL) {
        for (off_t at = 0; !found && at < LIBC_MAX; at += (off_t)chunk) {
            ssize_t got = pread(fd, buf, chunk + overlap, at);
            if (got <= 0)
                break;
            const char *p = memmem(buf, (size_t)got, mark, sizeof mark - 1);
            size_t rest = p ? (size_t)(buf + got - p) : 0;
            const char *v =
                p ? memmem(p, rest < 128 ? rest : 128, release, sizeof release - 1) : NULL;
            if (!v)
                continue;
            v += sizeof release - 1;
            int len = 0;
            while (v + len < buf + got && len < 8 &&
                   (isdigit((unsigned char)v[len]) || v[len] == '.'))
                len++;
            while (len && v[len - 1] == '.')
                len--;
            if (len) {
                snprintf(m->libc, sizeof m->libc, "glibc %.*s", len, v);
                found = true;
            }
        }
    }
    free(buf);
    close(fd);
    return found;
}

static void find_libc(struct nng_machine *m)
{
    static const char *const files[] = {"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6",
                                        "/usr/lib64/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6",
                                        "/usr/lib/libc.so.6"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (libc_of(files[i], m))
            return;
}

static int usable_cpus(void)
{
    cpu_set_t *set = CPU_ALLOC(4096);
    size_t size = CPU_ALLOC_SIZE(4096);
    int n = -1;

    if (set && sched_getaffinity(0, size, set) == 0)
        n = CPU_COUNT_S(size, set);
    CPU_FREE(set);
    return n;
}

void nng_machine_read(const char *env, size_t env_n, const char *command, size_t command_n,
                      struct nng_machine *out)
{
    struct utsname u;
    struct nng_shm shm;
    const char *da;

    memset(out, 0, sizeof *out);
    out->n_proc_da = -1;
    copy_env(out, env, env_n);
    find_place(out);
    out->cpus = usable_cpus();
    nng_devshm_read(NULL, 0, &shm);
    out->shm_total = shm.total;
    if (uname(&u) == 0)
        snprintf(out->kernel, sizeof out->kernel, "%.63s", u.release);
    find_libc(out);
    trainer_line(out, command, command_n);
    out->nnunet = shows_nnunet(command, command_n);
    da = value(out, "nnUNet_n_proc_DA");
    if (da && isdigit((unsigned char)*da)) {
        long v = strtol(da, NULL, 10);
        out->n_proc_da = v <= 4096 ? (int)v : -1;
    }
}
