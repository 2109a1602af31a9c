/* SPDX-License-Identifier: MIT
 *
 * Words common to all crashes. [reap], pure.
 */
#include "crash.h"

#include <stdio.h>
#include <string.h>

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

const char *nng_ev_library(const struct nng_evidence *ev, const struct nng_fault *f)
{
    const struct nng_stack *s = &ev->stack;

    if (s->taken && s->culprit >= 0 && s->culprit < s->n && s->culprit < 48 &&
        s->frame[s->culprit].module[0])
        return base_name(NNG_FIELD(s->frame[s->culprit].module));
    if (f && f->ip_path[0])
        return base_name(NNG_FIELD(f->ip_path));
    return "";
}

const char *nng_ev_last_file(const struct nng_evidence *ev)
{
    return ev->n_files > 0 ? NNG_FIELD(ev->files[0]) : "";
}

/* Which package to look at, by the name of the library. */
static const char *package(const char *library)
{
    static const char *const known[][2] = {
        {"blosc", "blosc2"},        {"torch", "torch"},      {"c10", "torch"},
        {"openblas", "numpy"},      {"multiarray", "numpy"}, {"numpy", "numpy"},
        {"SimpleITK", "SimpleITK"}, {"ITK", "SimpleITK"},    {"hdf5", "h5py"},
        {"cuda", "torch"},          {"cudnn", "torch"},      {"gomp", "torch"},
        {"iomp5", "torch"},         {"mkl", "numpy"},        {"opencv", "opencv-python"},
        {"scipy", "scipy"},         {"lmdb", "lmdb"},        {"nibabel", "nibabel"}};

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcasestr(library, known[i][0]))
            return known[i][1];
    return NULL;
}

/* libc, the loader and the interpreter do what their caller asks: no name to blame. */
static bool is_a_tool(const char *library)
{
    static const char *const tools[] = {"libc.so", "libc-",     "ld-linux",  "libpthread",
                                        "python",  "libpython", "libffi.so", "_ctypes"};

    for (size_t i = 0; i < sizeof tools / sizeof tools[0]; i++)
        if (!strncmp(library, tools[i], strlen(tools[i])))
            return true;
    return false;
}

void nng_v_crash(struct nng_verdict *v, const struct nng_evidence *ev, const struct nng_fault *f)
{
    const char *library = nng_ev_library(ev, f);
    const char *file = nng_ev_last_file(ev);
    const char *pip = package(library);
    struct nng_fix *fix;

    /* Of a bus error the mapping decides, not this list. */
    if (library[0] && nng_ev_signal(ev) != SIGBUS)
        nng_v_proof(v, "in %s; no out-of-memory kill, not /dev/shm, nobody sent the signal",
                    "位于 %s;不是内存不足被杀,不是 /dev/shm,也没有人发送信号", library);
    else if (library[0])
        nng_v_proof(v, "in %s", "位于 %s", library);
    else if (f && nng_ev_signal(ev) != SIGBUS)
        nng_v_proof(v, "no out-of-memory kill, not /dev/shm, nobody sent the signal (si_code %d)",
                    "不是内存不足被杀,不是 /dev/shm,也没有人发送信号(si_code %d)", f->code);
    else if (f)
        nng_v_proof(v, "nobody sent the signal (si_code %d)", "没有人发送信号(si_code %d)",
                    f->code);
    if (file[0])
        nng_v_proof(v, "the data file it opened last: %s", "它最后打开的数据文件:%s",
                    nng_path_short(file, 70));
    nng_v_signal_facts(v, ev);
    nng_v_fact_str(v, "crash.library", library, ev->stack.taken ? "native stack" : "fault record");
    nng_v_fact_str(v, "crash.last_file", file, "open hooks");
    if (f)
        nng_v_fact_str(v, "crash.mapping", f->has_map ? NNG_FIELD(f->map_path) : "",
                       "/proc/self/maps");
    if (pip) {
        fix = nng_v_fix(v, false, "update %s, or go back to the version that worked",
                        "更新 %s,或退回到之前可用的版本", pip);
        nng_fix_command(fix, "pip install -U %s", pip);
    } else if (library[0] && !is_a_tool(library)) {
        nng_v_fix(v, false, "report it to whoever makes %s, with the stack in report.txt",
                  "带上 report.txt 中的栈,向 %s 的维护者报告", library);
    } else if (!f) {
        nng_v_fix(v, false, "it left no stack; gdb, or a core file, would show where",
                  "没有留下调用栈;可用 gdb 或 core 文件查看位置");
    } else {
        nng_v_fix(v, false, "the stack in report.txt shows who called it there",
                  "report.txt 中的栈说明了是谁调用到那里的");
    }
    if (file[0])
        nng_v_fix(v, false, "if it is always the same file, make that one anew (preprocess again)",
                  "若总是同一个文件,请重新生成它(重新预处理)");
}
