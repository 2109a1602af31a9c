/* SPDX-License-Identifier: MIT
 *
 * Fixes that several causes share. Each is one line that can be copied and is right for where the
 * user is: Docker, Kubernetes, Slurm, Apptainer, a workstation. Numbers are computed from this run.
 * So are nnguard's own switches (nng_fix_rescue).
 */
#include "common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *nng_fix_trainer(const struct nng_evidence *ev)
{
    return ev->machine.trainer[0] ? NNG_FIELD(ev->machine.trainer) : "…";
}

const char *nng_fix_engine(const struct nng_evidence *ev)
{
    return strstr(ev->machine.place_detail, "podman") ? "podman" : "docker";
}

/* "1g" as Kubernetes ("1Gi") and Slurm ("1G") want it. */
static const char *kube(const char *arg)
{
    static _Thread_local char out[24];
    size_t n = strlen(arg);

    snprintf(out, sizeof out, "%.*s%ci", (int)(n - 1), arg, arg[n - 1] == 'g' ? 'G' : 'M');
    return out;
}

static const char *slurm(const char *arg)
{
    static _Thread_local char out[24];
    size_t n = strlen(arg);

    snprintf(out, sizeof out, "%.*s%c", (int)(n - 1), arg, arg[n - 1] == 'g' ? 'G' : 'M');
    return out;
}

void nng_fix_shm_size(struct nng_verdict *v, const struct nng_evidence *ev, int64_t need)
{
    const char *size = nng_size_arg(need);
    const char *gib = nng_bytes(need);
    int n = nng_ev_workers(ev);
    struct nng_fix *f;

    if (need <= 0) { /* nothing is known that a size could be computed from */
        f = nng_v_fix(v, false, "a larger /dev/shm", "加大 /dev/shm");
        if (ev->machine.place == NNG_PL_DOCKER)
            nng_fix_command(f, "%s run --ipc=host …", nng_fix_engine(ev));
        else
            nng_fix_command(f, "df -h /dev/shm");
        return;
    }
    switch (ev->machine.place) {
    case NNG_PL_DOCKER:
        f = n > 1 ? nng_v_fix(v, false, "%d workers need about %s here; --ipc=host works too",
                              "此处 %d 个进程共需约 %s;也可用 --ipc=host", n, gib)
                  : nng_v_fix(v, false, "about %s are needed here; --ipc=host works too",
                              "此处约需 %s;也可用 --ipc=host", gib);
        nng_fix_command(f, "%s run --shm-size=%s …", nng_fix_engine(ev), size);
        break;
    case NNG_PL_KUBERNETES:
        f = nng_v_fix(v, false, "as a volume of the pod, mounted at /dev/shm; about %s are needed",
                      "作为 pod 的卷挂载到 /dev/shm;约需 %s", gib);
        nng_fix_command(f, "emptyDir: {medium: Memory, sizeLimit: %s}", kube(size));
        break;
    case NNG_PL_APPTAINER:
        f = nng_v_fix(v, false, "use the host's /dev/shm, without --contain; about %s are needed",
                      "使用宿主机的 /dev/shm,不加 --contain;约需 %s", gib);
        nng_fix_command(f, "apptainer exec --bind /dev/shm …");
        break;
    default:
        f = nng_v_fix(v, false, "needs root on this machine; about %s are needed",
                      "需要本机 root 权限;约需 %s", gib);
        nng_fix_command(f, "sudo mount -o remount,size=%s /dev/shm", size);
        break;
    }
    if (ev->mem.present && ev->mem.limit > 0 && need > ev->mem.limit - ev->mem.usage &&
        ev->mem.usage > 0)
        nng_fix_cost(f, "it counts as memory: the limit here is %s, raise that too",
                     "它计入内存:此处上限为 %s,需一并提高", nng_bytes(ev->mem.limit));
}

static bool switched_on(const struct nng_evidence *ev, const char *what)
{
    const char *set = nng_ev_env(ev, "NNGUARD_RESCUE");
    return set && (strstr(set, what) || strstr(set, "all"));
}

void nng_fix_rescue(struct nng_verdict *v, const struct nng_evidence *ev, const char *what)
{
    bool shm = !strcmp(what, "shm");
    struct nng_fix *f;

    if (switched_on(ev, what)) /* and it did not help: the monitor has said why */
        return;
    f = shm ? nng_v_fix(v, true, "no new container and no root needed",
                        "无需新容器,也无需 root 权限")
            : nng_v_fix(v, true, "raises the limit at start", "启动时提高该上限");
    nng_fix_command(f, "NNGUARD_RESCUE=%s %s", what, "…");
    if (shm)
        nng_fix_cost(f, "what does not fit then counts as the container's memory",
                     "放不下的数据随后计入容器的内存");
    else
        nng_fix_cost(f, "no further than the hard limit", "不会超过硬上限");
}

void nng_fix_ulimit(struct nng_verdict *v, const struct nng_evidence *ev, char letter,
                    const char *name, int64_t want)
{
    const char *unit = letter == 'n' ? "LimitNOFILE" : "LimitNPROC";
    struct nng_fix *f;

    switch (ev->machine.place) {
    case NNG_PL_DOCKER:
        f = nng_v_fix(v, false, "a higher limit for the container", "提高容器的上限");
        nng_fix_command(f, "%s run --ulimit %s=%lld …", nng_fix_engine(ev), name, (long long)want);
        break;
    case NNG_PL_KUBERNETES:
        f = nng_v_fix(v, false, "by the cluster's admin: the unit of the node's container runtime",
                      "由集群管理员修改节点容器运行时的 systemd 单元");
        nng_fix_command(f, "%s=%lld", unit, (long long)want);
        break;
    case NNG_PL_SLURM:
        f = nng_v_fix(v, false, "by the cluster's admin: the unit of slurmd on the node",
                      "由集群管理员修改节点上 slurmd 的单元");
        nng_fix_command(f, "%s=%lld", unit, (long long)want);
        break;
    default:
        f = nng_v_fix(v, false, "above the hard limit: needs root; for this shell alone",
                      "超过硬上限:需要 root 权限;仅对当前 shell 有效");
        nng_fix_command(f, "sudo prlimit --pid $$ --%s=%lld; %s", name, (long long)want,
                        nng_fix_trainer(ev));
        break;
    }
}

void nng_fix_memory(struct nng_verdict *v, const struct nng_evidence *ev, int64_t need)
{
    const char *size = nng_size_arg(need);
    struct nng_fix *f;

    switch (ev->machine.place) {
    case NNG_PL_DOCKER:
        f = nng_v_fix(v, false, "a higher memory limit for the container", "提高容器的内存上限");
        nng_fix_command(f, "%s run --memory=%s …", nng_fix_engine(ev), size);
        break;
    case NNG_PL_KUBERNETES:
        f = nng_v_fix(v, false, "in the container's spec: a higher memory limit",
                      "在容器的 spec 中提高内存上限");
        nng_fix_command(f, "resources: {limits: {memory: %s}}", kube(size));
        break;
    case NNG_PL_SLURM:
        f = nng_v_fix(v, false, "more memory for the job", "为作业申请更多内存");
        nng_fix_command(f, "#SBATCH --mem=%s", slurm(size));
        break;
    default: {
        const char *path = ev->mem.limit_path[0] ? ev->mem.limit_path : ev->mem.path;
        if (!path[0]) {
            nng_v_fix(v, false, "give it %s of memory", "为它提供 %s 内存", nng_bytes(need));
            break;
        }
        f = nng_v_fix(v, false, "raise the limit of its memory cgroup; needs root",
                      "提高所在内存 cgroup 的上限,需要 root 权限");
        /* The folder as seen from here; a path inside the hierarchy only has its mount point added. */
        nng_fix_command(f, "echo %s | sudo tee %s%s/%s", slurm(size),
                        strncmp(path, "/sys/", 5) == 0 ? ""
                        : ev->mem.version == 1         ? "/sys/fs/cgroup/memory"
                                                       : "/sys/fs/cgroup",
                        path, ev->mem.version == 1 ? "memory.limit_in_bytes" : "memory.max");
        break;
    }
    }
}

static bool contains(const struct nng_evidence *ev, const char *word)
{
    return strstr(ev->machine.trainer, word) != NULL;
}

/* What the user typed without these options and their values: the advice gives them anew. */
static const char *trainer_without(const struct nng_evidence *ev, const char *a, const char *b)
{
    static _Thread_local char out[sizeof ev->machine.trainer];
    size_t len = 0;
    bool skip = false;

    for (const char *p = nng_fix_trainer(ev); *p;) {
        size_t n = strcspn(p, " ");
        bool option =
            (n == strlen(a) && !strncmp(p, a, n)) || (n == strlen(b) && !strncmp(p, b, n));
        if (!skip && !option && len + n + 2 < sizeof out) {
            if (len)
                out[len++] = ' ';
            memcpy(out + len, p, n);
            len += n;
        }
        skip = option;
        p += n;
        p += strspn(p, " ");
    }
    out[len] = '\0';
    return out;
}

void nng_fix_fewer_workers(struct nng_verdict *v, const struct nng_evidence *ev, int workers)
{
    struct nng_fix *f;

    if (workers <= 0) {
        nng_fix_no_workers(v, ev);
        return;
    }
    f = workers == 1 ? nng_v_fix(v, true, "one worker", "1 个工作进程")
                     : nng_v_fix(v, true, "%d workers", "%d 个工作进程", workers);
    nng_fix_cost(f, "slower epochs: a way round, not a cure", "每个 epoch 更慢:只是绕开,并未根治");
    if (contains(ev, "nnUNetv2_plan_and_preprocess") || contains(ev, "nnUNetv2_preprocess") ||
        contains(ev, "nnUNetv2_extract_fingerprint")) {
        nng_fix_command(f, "%s -np %d", trainer_without(ev, "-np", "--num_processes"), workers);
        nng_fix_cost(f, "preprocessing takes longer", "预处理更慢");
    } else if (contains(ev, "nnUNetv2_predict")) {
        nng_fix_command(f, "%s -npp %d -nps %d", trainer_without(ev, "-npp", "-nps"), workers,
                        workers);
        nng_fix_cost(f, "prediction takes longer", "预测更慢");
    } else if (ev->machine.nnunet) {
        nng_fix_command(f, "nnUNet_n_proc_DA=%d %s", workers, nng_fix_trainer(ev));
    } else {
        snprintf(f->text.en, sizeof f->text.en, "fewer workers (num_workers=%d)", workers);
        snprintf(f->text.zh, sizeof f->text.zh, "减少工作进程(num_workers=%d)", workers);
    }
}

static bool has_workers(const struct nng_evidence *ev)
{
    return ev->who.role == NNG_ROLE_WORKER || ev->workers_at_once > 0 || ev->workers_alive > 0 ||
           ev->machine.nnunet;
}

void nng_fix_no_workers(struct nng_verdict *v, const struct nng_evidence *ev)
{
    struct nng_fix *f;

    if (!has_workers(ev))
        return;
    if (contains(ev, "nnUNetv2_plan_and_preprocess") || contains(ev, "nnUNetv2_preprocess") ||
        contains(ev, "nnUNetv2_extract_fingerprint") || contains(ev, "nnUNetv2_predict")) {
        nng_fix_fewer_workers(v, ev, 1);
        return;
    }
    f = nng_v_fix(v, true, "no worker processes", "不用工作进程");
    nng_fix_cost(f, "works, but much slower, and it hides the cause",
                 "能用,但慢得多,而且会掩盖原因");
    if (ev->machine.nnunet) {
        nng_fix_command(f, "nnUNet_n_proc_DA=0 %s", nng_fix_trainer(ev));
    } else {
        snprintf(f->text.en, sizeof f->text.en, "no worker processes (num_workers=0)");
        snprintf(f->text.zh, sizeof f->text.zh, "不用工作进程(num_workers=0)");
    }
}
