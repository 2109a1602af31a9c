/* SPDX-License-Identifier: MIT
 *
 * Who is this process: boot, namespace, start time, command line without secrets, environment by an
 * allow-list. Runs in the constructor and, for pid and start time, in fork children; raw system
 * calls only. Without /proc the fields stay 0 or empty and the run works without them.
 */
#include "start.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct nng_identity nng_me;

long nng_read_file(const char *path, char *buf, size_t size)
{
    long fd = nng_sys4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    buf[0] = 0;
    if (fd < 0)
        return fd;
    long n;
    do /* what is read here is small, and /proc gives it in one piece */
        n = nng_sys3(SYS_read, fd, buf, size - 1);
    while (n == -EINTR);
    nng_sys1(SYS_close, fd);
    buf[n > 0 ? n : 0] = 0;
    return n;
}

uint64_t nng_ids_ticks(int pid)
{
    char path[40] = "/proc/self/stat", buf[512];
    if (pid) {
        char *p = nng_fmt_str(path, path + sizeof path, "/proc/");
        p = nng_fmt_u64(p, path + sizeof path, (uint64_t)pid);
        nng_fmt_str(p, path + sizeof path, "/stat");
    }
    long n = nng_read_file(path, buf, sizeof buf);
    if (n <= 0)
        return 0;
    const char *end = buf + n, *p = end;
    while (p > buf && *p != ')') /* the name in front may hold anything, blanks and brackets too */
        p--;
    for (int field = 2; field < 22 && p < end; p++)
        field += *p == ' ';
    uint64_t ticks;
    nng_parse_u64(p, end, &ticks);
    return ticks;
}

/* ---- environment ------------------------------------------------------------------------------ */
const char *nng_env(const char *name)
{
    size_t n = __builtin_strlen(name);
    for (char **e = environ; e && *e; e++)
        if (!__builtin_strncmp(*e, name, n) && (*e)[n] == '=')
            return *e + n + 1;
    return NULL;
}

static bool glob(const char *pat, size_t len, const char *s)
{
    const char *end = pat + len, *star = NULL, *back = NULL;
    while (*s) {
        if (pat < end && *pat == '*') {
            star = ++pat;
            back = s;
        } else if (pat < end && (*pat == '?' || *pat == *s)) {
            pat++;
            s++;
        } else if (star) {
            pat = star;
            s = ++back;
        } else {
            return false;
        }
    }
    while (pat < end && *pat == '*')
        pat++;
    return pat == end;
}

bool nng_ids_match(const char *globs, const char *name)
{
    while (*globs) {
        size_t n = 0;
        while (globs[n] && globs[n] != ',')
            n++;
        size_t from = 0, to = n; /* "a, b": the blank belongs to nobody's name */
        while (from < to && globs[from] == ' ')
            from++;
        while (to > from && globs[to - 1] == ' ')
            to--;
        if (to > from && glob(globs + from, to - from, name))
            return true;
        globs += n + (globs[n] == ',');
    }
    return false;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

/* Does s[0..n) contain `word` (lower case), whatever its case? */
static bool contains(const char *s, size_t n, const char *word)
{
    size_t w = __builtin_strlen(word);
    for (size_t i = 0; i + w <= n; i++) {
        size_t k = 0;
        while (k < w && lower(s[i + k]) == word[k])
            k++;
        if (k == w)
            return true;
    }
    return false;
}

static bool secret(const char *s, size_t n)
{
    return contains(s, n, "key") || contains(s, n, "token") || contains(s, n, "secret") ||
           contains(s, n, "pass") || contains(s, n, "credential");
}

static const char env_names[] =
    "CUDA_VISIBLE_DEVICES,NVIDIA_VISIBLE_DEVICES,OMP_*,MKL_NUM_THREADS,OPENBLAS_NUM_THREADS,"
    "nnUNet_*,TORCH*,PYTORCH_*,TRITON_*,NCCL_*,RANK,LOCAL_RANK,WORLD_SIZE,SLURM_JOB_ID,"
    "SLURM_*CPU*,SLURM_MEM*,SLURM_PROCID,SLURM_NTASKS,KUBERNETES_SERVICE_HOST,container,"
    "APPTAINER_NAME,SINGULARITY_NAME,LANG,LC_ALL,TMPDIR,NNGUARD_*";

void nng_ids_env(char *out, size_t size)
{
    char *p = out, *end = out + size;
    for (char **e = environ; e && *e; e++) {
        char name[64];
        size_t n = 0;
        while ((*e)[n] && (*e)[n] != '=')
            n++;
        size_t whole = n + __builtin_strlen(*e + n);
        if (n >= sizeof name || whole + 2 > (size_t)(end - p))
            continue;
        __builtin_memcpy(name, *e, n);
        name[n] = 0;
        if (!nng_ids_match(env_names, name) || secret(name, n))
            continue;
        __builtin_memcpy(p, *e, whole + 1);
        p += whole + 1;
    }
    *p = 0;
}

int nng_ids_rank(void)
{
    static const char *const names[] = {"RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        const char *v = nng_env(names[i]);
        if (!v || *v < '0' || *v > '9')
            continue;
        uint64_t n;
        nng_parse_u64(v, v + __builtin_strlen(v), &n);
        return n < 0x7fffffff ? (int)n : -1;
    }
    return -1;
}

/* ---- command line ------------------------------------------------------------------------------ */
/* Copy one argument; "--token=x" and "API_KEY=x" keep only the name. True: the next is a value to
 * hide ("--token x"). */
static bool put_arg(char **p, char *end, const char *arg, bool hide)
{
    if (hide) {
        *p = nng_fmt_str(*p, end, "***");
        return false;
    }
    size_t n = 0;
    while (arg[n] && arg[n] != '=' && arg[n] != ' ' && arg[n] != '\n')
        n++;
    bool named = n && secret(arg, n);
    if (named && arg[n] == '=') {
        for (size_t i = 0; i <= n && *p < end - 1; i++)
            *(*p)++ = arg[i];
        **p = 0;
        *p = nng_fmt_str(*p, end, "***");
        return false;
    }
    *p = nng_fmt_str(*p, end, arg);
    return named && arg[0] == '-' && !arg[n];
}

static size_t command(char *out, size_t size, char separator)
{
    char buf[4096];
    long n = nng_read_file("/proc/self/cmdline", buf, sizeof buf);
    char *p = out, *end = out + size;
    bool hide = false;
    *p = 0;
    for (long i = 0; i < n && p < end - 1; i += (long)__builtin_strlen(buf + i) + 1) {
        if (p > out)
            *p++ = separator;
        hide = put_arg(&p, end, buf + i, hide);
    }
    return (size_t)(p - out);
}

size_t nng_ids_command(char *out, size_t size)
{
    return command(out, size, 0);
}

bool nng_ids_absolute(const char *path, char *out, size_t size)
{
    char *p = out, *end = out + size;
    *p = 0;
    if (path[0] != '/') {
        if (nng_sys2(SYS_getcwd, out, size) < 0 || out[0] != '/')
            return false;
        p += __builtin_strlen(out);
        p = nng_fmt_str(p, end, "/");
    }
    if (__builtin_strlen(path) >= (size_t)(end - p))
        return false;
    nng_fmt_str(p, end, path);
    return true;
}

void nng_ids_after_fork(int pid)
{
    nng_me.pid = pid;
    nng_me.ticks = nng_ids_ticks(0);
}

void nng_ids_init(void)
{
    struct stat st;
    nng_ids_after_fork((int)nng_sys0(SYS_getpid));
    nng_me.uid = (uint32_t)nng_sys0(SYS_geteuid);
    long n =
        nng_read_file("/proc/sys/kernel/random/boot_id", nng_me.boot_id, sizeof nng_me.boot_id);
    if (n > 0 && nng_me.boot_id[n - 1] == '\n')
        nng_me.boot_id[n - 1] = 0;
    if (!nng_sys4(SYS_newfstatat, AT_FDCWD, "/proc/self/ns/pid", &st, 0))
        nng_me.pidns = st.st_ino;
    n = nng_read_file("/proc/self/comm", nng_me.comm, sizeof nng_me.comm);
    if (n > 0 && nng_me.comm[n - 1] == '\n')
        nng_me.comm[n - 1] = 0;
    command(nng_me.cmdline, sizeof nng_me.cmdline, ' ');
}
