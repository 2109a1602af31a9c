/* SPDX-License-Identifier: MIT
 *
 * Every cause on made-up evidence, each beside its look-alikes. One table: a row builds the evidence,
 * names the cause and how sure it may be. For every row all causes are asked, not only the winner:
 * none but the one named (and those that merely tell how a process ended) may be certain. The words
 * of every verdict are checked too. Real deaths are in test/faults.
 */
#include "shim/causes/cause.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#define MIB ((int64_t)1 << 20)
#define GIB ((int64_t)1 << 30)
#define SECOND 1000000000ULL
#define VICTIM 4711
#define EXT4 0xef53
#define TMPFS 0x01021994
#define BTRFS 0x9123683e
#define OVERLAY 0x794c7630

typedef struct nng_evidence E;

/* ---- building blocks ------------------------------------------------------------------------- */

static void base(E *e)
{
    memset(e, 0, sizeof *e);
    e->kind = NNG_K_DEATH;
    e->time_ns = 100 * SECOND;
    e->who.pid = VICTIM;
    e->who.ppid = 4000;
    e->who.role = NNG_ROLE_WORKER;
    e->who.ordinal = 3;
    e->who.of = 6;
    e->who.rank = -1;
    e->who.python = true;
    e->who.death_ns = 100 * SECOND;
    e->status.known = true;
    snprintf(e->status.source, sizeof e->status.source, "waitpid in pid 4000");
    e->machine.place = NNG_PL_DOCKER;
    e->machine.n_proc_da = -1;
    e->machine.nnunet = true;
    e->machine.cpus = 8;
    snprintf(e->machine.trainer, sizeof e->machine.trainer, "nnUNetv2_train 1 2d 0");
    e->mem.kills = e->mem.limit = e->mem.limit_hit = e->mem.fails = -1;
    e->mem.foreign = -1;
    e->host.total = 64 * GIB;
    e->host.available = 40 * GIB;
    e->host.vmstat_kills = -1;
    e->host.overcommit = 0;
    e->host.commit_limit = e->host.committed = -1;
    e->shm.total = e->shm.free = e->shm.held_by_run = e->shm.biggest_ask = -1;
    e->pids.max = e->pids.current = e->pids.max_events = e->pids.user_tasks = -1;
    e->pids.nproc_soft = -2;
    e->victim_rss = 500 * MIB;
    e->run_rss = 3 * GIB;
    e->stack.culprit = -1;
}

static void dies_of(E *e, int signo)
{
    e->status.signal = signo;
}

static void leaves(E *e, int code)
{
    e->status.signal = 0;
    e->status.code = code;
}

static void trainer(E *e)
{
    e->who.role = NNG_ROLE_TRAINER;
    e->who.ordinal = e->who.of = 0;
}

static struct nng_fault *fault(E *e, int signo, int code)
{
    struct nng_fault *f = &e->fault;

    dies_of(e, signo);
    e->has_fault = true;
    atomic_store(&f->state, NNG_F_DYING);
    f->signo = signo;
    f->code = code;
    f->sender_pid = -1;
    f->time_ns = e->time_ns;
    return f;
}

static struct nng_fault *sent(E *e, int signo, int pid, const char *name)
{
    struct nng_fault *f = fault(e, signo, 0);

    f->sender_pid = pid;
    snprintf(f->sender_name, sizeof f->sender_name, "%s", name);
    return f;
}

/* A page at `offset` of a mapped file of `size` bytes on a file system with `free` of `total`. */
static struct nng_fault *bus(E *e, bool devshm, uint64_t offset, uint64_t size, uint64_t total,
                             uint64_t free)
{
    struct nng_fault *f = fault(e, SIGBUS, 2);

    f->has_map = 1;
    f->map_start = 0x7f0000000000;
    f->map_end = f->map_start + 16 * MIB;
    f->addr = f->map_start + offset;
    f->map_ino = 77;
    f->map_prot = 3;
    f->map_shared = 1;
    f->map_devshm = devshm;
    f->map_deleted = devshm;
    snprintf(f->map_path, sizeof f->map_path, "%s",
             devshm ? "/dev/shm/torch_4711_1_0" : "/data/case_0001.npy");
    f->file_size = size;
    f->size_source = NNG_SZ_FD;
    f->statfs_ok = 1;
    f->fs_type = devshm ? TMPFS : EXT4;
    f->fs_bsize = 4096;
    f->fs_blocks = total / 4096;
    f->fs_bfree = f->fs_bavail = free / 4096;
    f->fs_files = f->fs_ffree = 1000;
    e->shm.present = true;
    e->shm.total = devshm ? (int64_t)total : 8 * GIB;
    e->shm.free = devshm ? (int64_t)free : 8 * GIB;
    return f;
}

static void says(E *e, const char *text)
{
    snprintf(e->tail, sizeof e->tail, "%.4000s", text);
    nng_text_traceback(e->tail, &e->tb);
}

static void raises(E *e, const char *line)
{
    char text[2048];

    snprintf(text, sizeof text,
             "Process ForkProcess-2:\n"
             "Traceback (most recent call last):\n"
             "  File \"/usr/lib/python3.11/multiprocessing/process.py\", line 314, in _bootstrap\n"
             "    self.run()\n"
             "  File \"/home/u/load.py\", line 7, in load\n"
             "    x\n%s\n",
             line);
    leaves(e, 1);
    says(e, text);
}

/* The same, raised inside a library: `origin` is its frame, as Python prints it. */
static void raises_in(E *e, const char *origin, const char *line)
{
    char text[1024];

    snprintf(text, sizeof text, "  File \"/usr/lib/python3.11/%s\n    y\n%s", origin, line);
    raises(e, text);
}

/* A trainer's traceback, at the top of its program or from inside a function, and what it printed behind it. */
static void prints(E *e, const char *above, const char *where, const char *line, const char *behind)
{
    char text[2048];

    snprintf(text, sizeof text,
             "%s\nTraceback (most recent call last):\n  File \"/home/u/train.py\", line 7, in %s\n"
             "    x\n%s\n%s",
             above, where, line, behind);
    leaves(e, 1);
    trainer(e);
    e->kind = NNG_K_FAILURE;
    says(e, text);
}

#define EPOCHS "epoch 1\nepoch 2\nepoch 3\nepoch 4\nepoch 5\nloss is NaN, stopping\n"

static struct nng_failcall *failed(E *e, enum nng_call call, int err, unsigned flags,
                                   const char *path)
{
    struct nng_failcall *f = &e->fails[e->n_fails++];

    f->pid = VICTIM;
    f->role = e->who.role;
    f->call = call;
    f->err = err;
    f->asked = f->free = f->total = -1;
    f->count = 1;
    f->flags = flags;
    f->time_ns = e->time_ns - SECOND / 10;
    snprintf(f->path, sizeof f->path, "%s", path);
    return f;
}

static struct nng_killrec *kill_by(E *e, int pid, enum nng_role role, bool parent, int signo)
{
    struct nng_killrec *k = &e->kills[e->n_kills++];

    k->sender = pid;
    k->sender_role = role;
    k->by_parent = parent;
    k->signal = signo;
    k->time_ns = e->time_ns - SECOND / 100;
    snprintf(k->sender_name, sizeof k->sender_name, "python3");
    return k;
}

/* A cgroup that counted `kills` while `deaths` of ours died there, with strangers in it. */
static void counted(E *e, int64_t kills, int deaths, int foreign, int foreign_gone)
{
    dies_of(e, SIGKILL);
    e->mem.present = true;
    e->mem.version = 2;
    snprintf(e->mem.path, sizeof e->mem.path, "/docker/abc");
    e->mem.limit = e->mem.limit_hit = 4 * GIB;
    e->mem.peak = 4 * GIB;
    e->mem.usage = 3 * GIB;
    e->mem.kills = kills;
    e->mem.kills_total = kills;
    e->mem.sigkills = deaths;
    e->mem.kills_fresh = kills;
    e->mem.sigkills_fresh = deaths;
    e->mem.foreign = foreign;
    e->mem.foreign_gone = foreign_gone;
}

static void limits(E *e)
{
    e->has_usage = true;
    atomic_store(&e->usage.valid, 1);
    for (int i = 0; i < 16; i++)
        e->usage.rlim_soft[i] = e->usage.rlim_hard[i] = ~0ULL;
    e->usage.vm_size = e->usage.vm_peak = (uint64_t)(5 * GIB);
    e->usage.vm_rss = (uint64_t)GIB;
    e->usage.threads = 4;
    e->usage.fds = 40;
}

static void kernel_line(E *e, bool by_pid, bool global)
{
    e->kmsg.readable = e->kmsg.found = true;
    e->kmsg.by_pid = by_pid;
    e->kmsg.global = global;
    snprintf(e->kmsg.line, sizeof e->kmsg.line, "%s: Killed process 4711 (python3)",
             global ? "Out of memory" : "Memory cgroup out of memory");
}

/* ---- /dev/shm ---------------------------------------------------------------------------------- */

static void shm_full(E *e)
{
    bus(e, true, 4096, 16 * MIB, 64 * MIB, 0);
    e->shm.held_by_run = 63 * MIB;
    e->shm.holders = 6;
    e->shm.biggest_ask = 16 * MIB;
}
static void shm_full_held(E *e)
{
    shm_full(e);
    memset(&e->status, 0, sizeof e->status);
    atomic_store(&e->fault.state, NNG_F_HELD);
}
static void shm_full_then_terminated_by_trainer(E *e)
{
    shm_full(e);
    atomic_store(&e->fault.state, NNG_F_HELD);
    e->status.signal = SIGTERM;
    kill_by(e, 4000, NNG_ROLE_TRAINER, true, SIGTERM);
}
static void shm_full_trainer(E *e)
{
    shm_full(e);
    trainer(e);
}
static void shm_full_seen_only(E *e)
{
    shm_full(e);
    atomic_store(&e->fault.state, NNG_F_SEEN);
    e->status.inferred = true;
}
static void shm_full_size_unknown(E *e)
{
    shm_full(e);
    e->fault.size_source = NNG_SZ_UNKNOWN;
}
static void shm_full_but_past_the_end(E *e)
{
    bus(e, true, 8 * MIB, 4 * MIB, 64 * MIB, 0);
}
static void shm_full_past_a_recorded_size(E *e)
{
    shm_full_but_past_the_end(e);
    e->fault.size_source = NNG_SZ_RECORDED;
}
static void shm_full_last_partial_page(E *e)
{
    bus(e, true, 4096, 4097, 64 * MIB, 0);
}
static void shm_truncated_with_room(E *e)
{
    bus(e, true, 8 * MIB, 4 * MIB, 64 * MIB, 60 * MIB);
}
static void shm_inside_with_much_room(E *e)
{
    bus(e, true, 4096, 16 * MIB, 8 * GIB, 7 * GIB);
}
static void shm_inside_with_little_room(E *e)
{
    bus(e, true, 4096, 16 * MIB, 64 * MIB, 2 * MIB);
}
static void shm_without_a_limit(E *e)
{
    bus(e, true, 4096, 16 * MIB, 0, 0);
}
static void shm_sigbus_sent(E *e)
{
    sent(e, SIGBUS, 4999, "bash");
    e->shm.present = true;
    e->shm.total = 64 * MIB;
    e->shm.free = 0;
}
static void shm_sigbus_sent_while_mapping_is_full(E *e)
{
    shm_full(e);
    e->fault.code = 0;
    e->fault.sender_pid = 4999;
}
static void shm_sigbus_by_kill_record(E *e)
{
    dies_of(e, SIGBUS);
    kill_by(e, 4000, NNG_ROLE_TRAINER, true, SIGBUS);
    e->shm.present = true;
    e->shm.total = 64 * MIB;
    e->shm.free = 0;
}
static void shm_blind_and_full(E *e)
{
    dies_of(e, SIGBUS);
    e->handed_blind = true;
    e->shm.present = true;
    e->shm.total = 64 * MIB;
    e->shm.free = 0;
    e->shm.biggest_ask = 16 * MIB;
}
static void shm_blind_with_room(E *e)
{
    shm_blind_and_full(e);
    e->shm.free = 60 * MIB;
    says(e,
         "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient "
         "shared memory (shm).\n");
}
static void shm_enospc_alive(E *e)
{
    e->kind = NNG_K_STALL;
    e->alive = true;
    memset(&e->status, 0, sizeof e->status);
    struct nng_failcall *f =
        failed(e, NNG_C_POSIX_FALLOCATE, ENOSPC, NNG_RF_DEVSHM, "/torch_4711_1_0");
    f->asked = 16 * MIB;
    f->free = 2 * MIB;
    f->total = 64 * MIB;
    f->count = 12;
}
static void shm_enospc_inodes(E *e)
{
    shm_enospc_alive(e);
    e->fails[0].flags |= NNG_RF_INODES;
    e->fails[0].call = NNG_C_SEM_OPEN;
    e->fails[0].free = 60 * MIB;
}
static void shm_enospc_commit_limit(E *e)
{
    shm_enospc_alive(e);
    e->fails[0].free = 60 * MIB;
    e->host.overcommit = 2;
    e->host.commit_limit = 32 * GIB;
    e->host.committed = 32 * GIB - MIB;
}
static void shm_enospc_exception(E *e)
{
    raises(
        e,
        "RuntimeError: unable to allocate shared memory(shm) for file </torch_4711_1_0>: No space "
        "left on device (28)");
    struct nng_failcall *f =
        failed(e, NNG_C_POSIX_FALLOCATE, ENOSPC, NNG_RF_DEVSHM, "/torch_4711_1_0");
    f->asked = 16 * MIB;
    f->free = 2 * MIB;
    f->total = 64 * MIB;
}
static void shm_enospc_semlock(E *e)
{
    raises(e, "OSError: [Errno 28] No space left on device");
    failed(e, NNG_C_SEM_OPEN, ENOSPC, NNG_RF_DEVSHM, "sem.mp-abc");
}
static void shm_enospc_words_only(E *e)
{
    raises(
        e,
        "RuntimeError: unable to allocate shared memory(shm) for file </torch_4711_1_0>: No space "
        "left on device (28)");
}
static void shm_refused_not_full(E *e)
{
    raises(e, "PermissionError: [Errno 13] Permission denied: '/psm_x'");
    failed(e, NNG_C_SHM_OPEN, EACCES, NNG_RF_DEVSHM, "/psm_x");
}
static void shm_failures_then_a_segfault(E *e)
{
    shm_enospc_exception(e);
    memset(&e->tb, 0, sizeof e->tb);
    e->tail[0] = 0;
    fault(e, SIGSEGV, 1)->addr = 0x10;
}
static void shm_failures_then_another_exception(E *e)
{
    raises(e, "KeyError: 'weights'");
    failed(e, NNG_C_POSIX_FALLOCATE, ENOSPC, NNG_RF_DEVSHM, "/torch_1");
}
static void shm_failure_but_the_words_name_a_disk(E *e)
{
    raises(e, "OSError: [Errno 28] No space left on device: '/data/out/x.npz'");
    failed(e, NNG_C_POSIX_FALLOCATE, ENOSPC, NNG_RF_DEVSHM, "/torch_1");
}
static void shm_name_gone(E *e)
{
    raises(e, "RuntimeError: unable to open shared memory object </torch_1_2_3> in read-write "
              "mode: No such "
              "file or directory (2)");
    failed(e, NNG_C_SHM_OPEN, ENOENT, NNG_RF_DEVSHM, "/torch_1_2_3");
}
static void shm_name_gone_words_only(E *e)
{
    raises(e, "RuntimeError: unable to open shared memory object </torch_1_2_3> in read-write "
              "mode: No such "
              "file or directory (2)");
}
static void shm_object_for_want_of_fds(E *e)
{
    raises(e, "RuntimeError: unable to open shared memory object </torch_1_2_3> in read-write "
              "mode: Too many "
              "open files (24)");
    limits(e);
    e->usage.rlim_soft[RLIMIT_NOFILE] = 1024;
    failed(e, NNG_C_SHM_OPEN, EMFILE, NNG_RF_DEVSHM, "/torch_1_2_3");
}
static void a_model_is_missing(E *e)
{
    raises(e,
           "FileNotFoundError: [Errno 2] No such file or directory: 'outputs/pytorch_model.bin'");
    failed(e, NNG_C_OPEN, ENOENT, 0, "outputs/pytorch_model.bin");
}
static void a_folder_named_temp_is_missing(E *e)
{
    raises(e,
           "FileNotFoundError: [Errno 2] No such file or directory: '/data/temp-3/mp-4/torch_x'");
}
static void labels_are_missing_and_semlock_was_printed(E *e)
{
    raises(e, "FileNotFoundError: [Errno 2] No such file or directory: '/data/labels_sem.json'");
    strcat(e->tail, "<SemLock(value=1)>\n");
}
static void shm_of_python_gone(E *e)
{
    raises(e, "FileNotFoundError: [Errno 2] No such file or directory: '/psm_1a2b'");
    failed(e, NNG_C_SHM_OPEN, ENOENT, NNG_RF_DEVSHM, "/psm_1a2b");
}
static void shm_with_a_name_of_the_users_gone(E *e)
{
    raises_in(e, "multiprocessing/shared_memory.py\", line 104, in __init__",
              "FileNotFoundError: [Errno 2] No such file or directory: '/my_block'");
}
static void a_data_file_is_missing(E *e)
{
    raises(e, "FileNotFoundError: [Errno 2] No such file or directory: '/data/x.npy'");
}

/* ---- files and disks ---------------------------------------------------------------------------- */

static void file_cut(E *e)
{
    bus(e, false, 8 * MIB, 4 * MIB, 100 * GIB, 50 * GIB);
}
static void file_cut_on_a_full_disk(E *e)
{
    bus(e, false, 8 * MIB, 4 * MIB, 100 * GIB, 0);
}
static void file_cut_private_mapping(E *e)
{
    file_cut(e);
    e->fault.map_shared = 0;
    e->fault.map_prot = 1;
}
static void file_size_unknown_with_room(E *e)
{
    file_cut(e);
    e->fault.size_source = NNG_SZ_UNKNOWN;
}
static void gpu_fell_off_the_bus(E *e)
{
    bus(e, false, 4096, 0, 0, 0);
    snprintf(e->fault.map_path, sizeof e->fault.map_path, "/dev/nvidia0");
}
static void huge_pages_ran_out(E *e)
{
    bus(e, false, 4096, 64 * MIB, 0, 0);
    snprintf(e->fault.map_path, sizeof e->fault.map_path, "/anon_hugepage");
}
static void sparse_file_on_full_ext4(E *e)
{
    bus(e, false, 4096, 16 * MIB, 64 * MIB, 0);
}
static void sparse_file_on_full_ext4_reserved(E *e)
{
    bus(e, false, 4096, 16 * MIB, 100 * GIB, 0);
    e->fault.fs_bfree = (uint64_t)(5 * GIB) / 4096;
}
static void sparse_file_on_full_ext4_clusters_kept(E *e)
{
    bus(e, false, 4096, 16 * MIB, 64 * MIB, 0);
    e->fault.fs_bfree = (uint64_t)MIB / 4096;
}
static void sparse_file_on_full_btrfs(E *e)
{
    bus(e, false, 4096, 16 * MIB, 200 * MIB, 2 * MIB);
    e->fault.fs_type = BTRFS;
}
static void full_tmp_on_tmpfs(E *e)
{
    bus(e, false, 4096, 16 * MIB, 64 * MIB, 0);
    e->fault.fs_type = TMPFS;
    snprintf(e->fault.map_path, sizeof e->fault.map_path, "/tmp/x.npy");
}
static void read_fault_on_a_full_disk(E *e)
{
    bus(e, false, 4096, 16 * MIB, 64 * MIB, 0);
    e->fault.map_prot = 1;
}
static void bad_block(E *e)
{
    bus(e, false, 4096, 16 * MIB, 100 * GIB, 50 * GIB);
}
static void bad_memory_module(E *e)
{
    fault(e, SIGBUS, 4)->addr = 0x7f0000001000;
}
static void disk_full_exception(E *e)
{
    raises(e, "OSError: [Errno 28] No space left on device: '/data/out/x.npz'");
    struct nng_failcall *f = failed(e, NNG_C_WRITE, ENOSPC, 0, "/data/out/x.npz");
    f->free = 0;
    f->total = 100 * GIB;
}
static void disk_full_bare_exception(E *e)
{
    disk_full_exception(e);
    raises(e, "OSError: [Errno 28] No space left on device");
}
static void disk_full_and_shm_full_bare(E *e)
{
    disk_full_bare_exception(e);
    failed(e, NNG_C_POSIX_FALLOCATE, ENOSPC, NNG_RF_DEVSHM, "/torch_1");
}
static void disk_full_long_ago(E *e)
{
    disk_full_bare_exception(e);
    e->fails[0].time_ns = e->time_ns - 60 * SECOND;
}
static void disk_quota(E *e)
{
    raises(e, "OSError: [Errno 122] Disk quota exceeded: '/home/u/x'");
    failed(e, NNG_C_WRITE, EDQUOT, 0, "/home/u/x");
}
static void disk_full_words_only(E *e)
{
    raises(e, "OSError: [Errno 28] No space left on device: '/data/out/x.npz'");
}
static void enospc_bare_words_only(E *e)
{
    raises(e, "OSError: [Errno 28] No space left on device");
}
static void numpy_short_write(E *e)
{
    raises(e, "OSError: 8388608 requested and 4096 written");
}
static void numpy_short_write_under_a_size_limit(E *e)
{
    numpy_short_write(e);
    limits(e);
    e->usage.rlim_soft[RLIMIT_FSIZE] = MIB;
}
static void enospc_bare_with_room_in_shm(E *e)
{
    enospc_bare_words_only(e);
    e->shm.present = true;
    e->shm.total = e->shm.free = 8 * GIB;
}
static void disk_read_error(E *e)
{
    raises(e, "OSError: [Errno 5] Input/output error: '/data/x.npy'");
    failed(e, NNG_C_READ, EIO, 0, "/data/x.npy");
}
static void disk_read_error_words_only(E *e)
{
    raises(e, "OSError: [Errno 5] Input/output error");
}
static void terminal_closed(E *e)
{
    prints(e, "epoch 4", "<module>", "OSError: [Errno 5] Input/output error", "");
    failed(e, NNG_C_WRITE, EIO, 0, "/dev/pts/0 (deleted)");
}
static void terminal_of_a_worker_closed(E *e)
{
    raises(e, "OSError: [Errno 5] Input/output error");
    failed(e, NNG_C_WRITE, EIO, 0, "/dev/tty1");
}
static void eio_of_proc(E *e)
{
    raises(e, "OSError: [Errno 5] Input/output error: '/proc/4711/mem'");
    failed(e, NNG_C_READ, EIO, 0, "/proc/4711/mem");
}
static void disk_read_error_logged_and_survived(E *e)
{
    prints(e, "ERROR cache", "load", "OSError: [Errno 5] Input/output error: '/data/x.npy'",
           EPOCHS);
    failed(e, NNG_C_READ, EIO, 0, "/data/x.npy")->time_ns -= 5 * SECOND;
}
/* logging.exception, and epochs later an end for another reason */
static void disk_full_logged_and_survived(E *e)
{
    prints(e, "ERROR:root:could not write the log, going on without", "<module>",
           "OSError: [Errno 28] No space left on device: '/data/out/x.npz'", EPOCHS);
    failed(e, NNG_C_WRITE, ENOSPC, 0, "/data/out/x.npz")->time_ns -= 5 * SECOND;
}
static void disk_full_logged_just_before_the_end(E *e)
{
    prints(e, "ERROR:root:could not write the log, going on without", "<module>",
           "OSError: [Errno 28] No space left on device: '/data/out/x.npz'", "no such dataset\n");
    failed(e, NNG_C_WRITE, ENOSPC, 0, "/data/out/x.npz");
}
static void disk_full_of_the_trainer(E *e)
{
    prints(e, "epoch 7", "<module>",
           "OSError: [Errno 28] No space left on device: '/data/out/x.npz'", "");
    failed(e, NNG_C_WRITE, ENOSPC, 0, "/data/out/x.npz");
}
/* stdout is a pipe: what was in its buffer comes behind the traceback */
static void disk_full_of_the_trainer_and_buffered_output(E *e)
{
    prints(e, "epoch 7", "<module>",
           "OSError: [Errno 28] No space left on device: '/data/out/x.npz'", EPOCHS);
    failed(e, NNG_C_WRITE, ENOSPC, 0, "/data/out/x.npz");
}
static void disk_full_of_a_worker_and_buffered_output(E *e)
{
    disk_full_exception(e);
    strcat(e->tail, EPOCHS);
    nng_text_traceback(e->tail, &e->tb);
}
static void disk_full_handled_then_an_exit(E *e)
{
    leaves(e, 3);
    says(e, "cache not written: [Errno 28] No space left on device\nno such dataset\n");
    failed(e, NNG_C_WRITE, ENOSPC, 0, "/data/out/x.npz");
}
static void disk_full_said_at_the_very_end(E *e)
{
    leaves(e, 3);
    trainer(e);
    e->kind = NNG_K_FAILURE;
    says(e, "saving\nerror: could not save: No space left on device\n");
    failed(e, NNG_C_WRITE, ENOSPC, 0, "/data/out/x.npz");
}
static void dev_full(E *e)
{
    raises(e, "OSError: [Errno 28] No space left on device: '/dev/full'");
    failed(e, NNG_C_WRITE, ENOSPC, 0, "/dev/full");
}
static void dev_full_unnamed(E *e)
{
    raises(e, "OSError: [Errno 28] No space left on device");
    failed(e, NNG_C_WRITE, ENOSPC, 0, "/dev/full");
    e->shm.present = true;
    e->shm.total = e->shm.free = 8 * GIB;
}
static void disk_full_with_room(E *e)
{
    disk_full_exception(e);
    e->fails[0].free = 50 * GIB;
}
static void inotify_watches(E *e)
{
    raises(e, "OSError: [Errno 28] inotify watch limit reached");
    e->shm.present = true;
    e->shm.total = e->shm.free = 8 * GIB;
}
static void inotify_watches_in_the_systems_words(E *e)
{
    inotify_watches(e);
    raises_in(e, "site-packages/watchdog/observers/inotify_c.py\", line 422, in _raise_error",
              "OSError: [Errno 28] No space left on device");
}
static void damaged_npy(E *e)
{
    raises(e, "ValueError: mmap length is greater than file size");
    e->n_files = 2;
    snprintf(e->files[0], NNG_PATH, "/data/case_1.npy");
    snprintf(e->files[1], NNG_PATH, "/data/case_0.npy");
}
static void damaged_zip(E *e)
{
    raises(e, "zipfile.BadZipFile: Bad CRC-32 for file 'data.npy'");
    e->n_files = 1;
    snprintf(e->files[0], NNG_PATH, "/data/case_1.npz");
}
static void damaged_npy_told_by_numpy(E *e)
{
    raises_in(e, "site-packages/numpy/lib/npyio.py\", line 436, in load",
              "ValueError: Cannot load file containing pickled data when allow_pickle=False");
    e->n_files = 1;
    snprintf(e->files[0], NNG_PATH, "/data/case_1.npy");
}
static void a_healthy_array_of_objects(E *e)
{
    raises_in(e, "site-packages/numpy/lib/format.py\", line 795, in read_array",
              "ValueError: Object arrays cannot be loaded when allow_pickle=False");
    e->n_files = 2;
    snprintf(e->files[0], NNG_PATH, "/data/plan.json");
    snprintf(e->files[1], NNG_PATH, "/data/case_1.npy");
}
static void a_healthy_checkpoint_for_torch_2_6(E *e)
{
    raises_in(e, "site-packages/torch/serialization.py\", line 1470, in load",
              "_pickle.UnpicklingError: Weights only load failed. This file can still be loaded");
    e->n_files = 1;
    snprintf(e->files[0], NNG_PATH, "/data/checkpoint_final.pth");
}
static void a_damaged_checkpoint(E *e)
{
    raises_in(
        e, "site-packages/torch/serialization.py\", line 600, in __init__",
        "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central "
        "directory");
    e->n_files = 1;
    snprintf(e->files[0], NNG_PATH, "/data/checkpoint_final.pth");
}
static void a_config_entry_could_not_be_read(E *e)
{
    raises(e, "ValueError: config entry 'optimizer/lr' could not be read: expected a float");
}
static void a_damaged_pickle(E *e)
{
    raises(e, "_pickle.UnpicklingError: pickle data was truncated");
    e->n_files = 1;
    snprintf(e->files[0], NNG_PATH, "/data/case_1.pkl");
}
static void unpickled_from_a_message(E *e)
{
    raises(e, "_pickle.UnpicklingError: invalid load key, 'x'.");
}
static void damaged_data_logged_and_survived(E *e)
{
    prints(e, "WARNING skipped", "load", "zipfile.BadZipFile: Bad CRC-32 for file '/data/x.npz'",
           EPOCHS);
}
static void an_ordinary_reshape_mistake(E *e)
{
    raises(e, "ValueError: cannot reshape array of size 12 into shape (5,)");
    e->n_files = 1;
    snprintf(e->files[0], NNG_PATH, "/data/case_1.npy");
}

/* ---- killed --------------------------------------------------------------------------------------- */

static void oom_counted(E *e)
{
    counted(e, 1, 1, 0, 0);
}
static void oom_trainer(E *e)
{
    counted(e, 1, 1, 0, 0);
    trainer(e);
}
static void oom_three_of_three(E *e)
{
    counted(e, 3, 3, 0, 0);
}
static void oom_foreign_unknown(E *e)
{
    counted(e, 1, 1, -1, 0);
}
static void oom_foreign_there(E *e)
{
    counted(e, 1, 1, 2, 0);
}
static void oom_foreign_came_and_went(E *e)
{
    counted(e, 1, 1, 2, 1);
}
static void oom_fewer_kills_than_deaths(E *e)
{
    counted(e, 1, 2, 0, 0);
}
static void oom_more_kills_than_deaths(E *e)
{
    counted(e, 3, 1, 0, 0);
}
static void oom_counted_some_time_before(E *e)
{
    counted(e, 1, 1, 0, 0); /* it may have hung in the kernel meanwhile */
    e->mem.kills_fresh = 0;
}
static void oom_counted_before_for_a_tool(E *e)
{
    oom_counted_some_time_before(e);
    e->mem.others_gone = 1;
}
static void oom_counted_before_and_not_alone(E *e)
{
    oom_counted_some_time_before(e);
    e->mem.foreign = 2;
}
static void oom_counted_for_a_tool(E *e)
{
    counted(e, 1, 1, 0, 0);
    e->mem.others_gone = 1;
}
static void oom_counted_away_from_the_limit(E *e)
{
    counted(e, 1, 1, 0, 0);
    e->mem.peak = GIB;
    e->mem.limit_hit = -1;
    e->mem.fails = 0;
}
static void oom_counted_and_a_status_inferred(E *e)
{
    counted(e, 1, 1, 0, 0);
    trainer(e);
    e->status.inferred = true;
}
static void oomd_and_a_status_inferred(E *e)
{
    counted(e, 0, 1, 0, 0);
    e->mem.oomd = true;
    trainer(e);
    e->status.inferred = true;
}
static void oom_and_a_kill_of_the_dead(E *e)
{
    counted(e, 1, 1, 0, 0);
    kill_by(e, 4000, NNG_ROLE_TRAINER, true, SIGKILL)->time_ns = e->who.death_ns + 1;
}
static void killed_long_after_a_kill_record(E *e)
{
    counted(e, 0, 1, 0, 0);
    kill_by(e, 4000, NNG_ROLE_TRAINER, true, SIGKILL)->time_ns = e->who.death_ns - 90 * SECOND;
}
static void killed_by_the_first_of_two(E *e)
{
    counted(e, 0, 1, 0, 0);
    kill_by(e, 4000, NNG_ROLE_TRAINER, true, SIGKILL); /* the newest comes first */
    kill_by(e, 4712, NNG_ROLE_WORKER, false, SIGKILL)->time_ns -= SECOND / 10;
}
static void oom_by_pid(E *e)
{
    counted(e, 1, 3, 4, 2);
    kernel_line(e, true, false);
}
static void oom_by_name(E *e)
{
    counted(e, 1, 1, -1, 0);
    kernel_line(e, false, false);
}
static void oom_by_name_and_count(E *e)
{
    counted(e, 1, 1, 0, 0);
    kernel_line(e, false, false);
}
static void oom_of_others_by_the_log(E *e)
{
    counted(e, 1, 1, 0, 0);
    e->kmsg.readable = e->kmsg.others = true;
}
static void oom_count_but_a_sibling_killed_it(E *e)
{
    counted(e, 1, 1, 0, 0);
    kill_by(e, 4712, NNG_ROLE_WORKER, false, SIGKILL);
}
static void oom_and_a_kill_record(E *e)
{
    counted(e, 1, 1, 0, 0);
    kernel_line(e, true, false);
    kill_by(e, 4000, NNG_ROLE_TRAINER, true, SIGKILL);
}
static void oom_says_the_program(E *e)
{
    counted(e, 0, 1, 0, 0);
    says(e, "Some background worker is 6 feet under. out of RAM is likely the problem\n");
}
static void host_by_pid(E *e)
{
    counted(e, 0, 1, 0, 0);
    kernel_line(e, true, true);
}
static void host_by_name(E *e)
{
    counted(e, 0, 1, 0, 0);
    kernel_line(e, false, true);
}
static void host_by_count_and_short(E *e)
{
    counted(e, 0, 1, 0, 0);
    e->host.vmstat_kills = 1;
    e->host.available = 2 * GIB;
}
static void host_count_of_another_container(E *e)
{
    counted(e, 0, 1, 0, 0);
    e->host.vmstat_kills = 1;
    e->host.available = 20 * GIB;
}
static void host_count_with_plenty_left(E *e)
{
    counted(e, 0, 1, 0, 0);
    e->host.vmstat_kills = 1;
}
static void host_counted_in_its_cgroup(E *e)
{
    oom_counted_away_from_the_limit(e); /* the kernel counts a global kill there, too */
    e->host.vmstat_kills = 1;
    e->host.available = 2 * GIB;
}
static void host_count_but_the_log_is_silent(E *e)
{
    counted(e, 0, 1, 0, 0);
    e->host.vmstat_kills = 1;
    e->host.available = 2 * GIB;
    e->kmsg.readable = true;
}
static void oomd(E *e)
{
    counted(e, 0, 1, 0, 0);
    e->mem.oomd = true;
}
static void killed_by_sibling(E *e)
{
    counted(e, 0, 1, 0, 0);
    kill_by(e, 4712, NNG_ROLE_WORKER, false, SIGKILL);
}
static void killed_by_trainer(E *e)
{
    dies_of(e, SIGKILL);
    kill_by(e, 4000, NNG_ROLE_TRAINER, true, SIGKILL);
}
static void termed_by_stranger(E *e)
{
    sent(e, SIGTERM, 999, "earlyoom");
}
static void termed_from_outside_the_container(E *e)
{
    sent(e, SIGTERM, 0, "");
}
static void segv_sent(E *e)
{
    sent(e, SIGSEGV, 999, "bash")->addr = 0;
}
static void segv_sent_blind(E *e)
{
    dies_of(e, SIGSEGV);
    kill_by(e, 4712, NNG_ROLE_WORKER, false, SIGSEGV);
}
static void abort_sent(E *e)
{
    sent(e, SIGABRT, 999, "bash");
}
static void fpe_sent(E *e)
{
    sent(e, SIGFPE, 999, "bash");
}
static void raises_segv_at_itself(E *e)
{
    fault(e, SIGSEGV, -6)->sender_pid = VICTIM;
}
static void kill_record_of_another_signal(E *e)
{
    dies_of(e, SIGKILL);
    kill_by(e, 4000, NNG_ROLE_TRAINER, true, SIGTERM);
}
static void killed_silently(E *e)
{
    counted(e, 0, 1, 0, 0);
    e->mem.peak = 3 * GIB;
}
static void killed_and_nothing_readable(E *e)
{
    dies_of(e, SIGKILL);
}
static void killed_with_its_parent(E *e)
{
    dies_of(e, SIGKILL);
    e->parent_gone = true;
}
static void terminated_unseen(E *e)
{
    dies_of(e, SIGTERM);
}
static void trainer_terminated(E *e)
{
    sent(e, SIGTERM, 999, "slurmstepd");
    e->sender = NNG_SENDER_OUTSIDE;
    trainer(e);
    e->machine.place = NNG_PL_SLURM;
    snprintf(e->machine.place_detail, sizeof e->machine.place_detail, "Slurm job 8812");
}
static void trainer_terminated_by_its_own_shell(E *e)
{
    sent(e, SIGTERM, 999, "sh");
    e->sender = NNG_SENDER_INSIDE;
    trainer(e);
}
static void trainer_terminated_by_one_who_is_gone(E *e)
{
    sent(e, SIGTERM, 999, "");
    trainer(e);
}
static void trainer_lost_its_terminal(E *e)
{
    fault(e, SIGHUP, 128);
    trainer(e);
}
static void trainer_hung_up(E *e)
{
    sent(e, SIGHUP, 0, "");
    trainer(e);
}
static void trainer_terminated_by_its_worker(E *e)
{
    sent(e, SIGTERM, 4712, "python3");
    trainer(e);
    kill_by(e, 4712, NNG_ROLE_WORKER, false, SIGTERM);
}
static void trainer_ctrl_c(E *e)
{
    raises(e, "KeyboardInterrupt");
    trainer(e);
}

/* ---- limits ---------------------------------------------------------------------------------------- */

static void cpu_soft(E *e)
{
    fault(e, SIGXCPU, 128);
    limits(e);
    e->usage.rlim_soft[RLIMIT_CPU] = 11; /* raised by the kernel as it sends the signal */
    e->cpu_time_ns = 10 * SECOND;
}
static void cpu_soft_sent(E *e)
{
    sent(e, SIGXCPU, 999, "bash");
}
static void cpu_hard(E *e)
{
    dies_of(e, SIGKILL);
    limits(e);
    e->usage.rlim_soft[RLIMIT_CPU] = e->usage.rlim_hard[RLIMIT_CPU] = 10;
    e->cpu_time_ns = 10 * SECOND + 1;
}
static void cpu_hard_seen_by_the_monitor(E *e)
{
    dies_of(e, SIGKILL);
    e->cpu_limit_s = 10;
    e->cpu_time_ns = 10 * SECOND;
}
static void cpu_hard_last_seen_before(E *e)
{
    cpu_hard_seen_by_the_monitor(e);
    e->cpu_time_ns = 9 * SECOND;
}
static void cpu_hard_far_away(E *e)
{
    cpu_hard(e);
    e->usage.rlim_hard[RLIMIT_CPU] = 3600;
    e->usage.rlim_soft[RLIMIT_CPU] = 5;
}
static void cpu_hard_but_oom_counted(E *e)
{
    cpu_hard(e);
    counted(e, 1, 1, 0, 0);
}
static void cpu_hard_but_killed_by_sibling(E *e)
{
    cpu_hard(e);
    kill_by(e, 4712, NNG_ROLE_WORKER, false, SIGKILL);
}
static void fsize_signal(E *e)
{
    fault(e, SIGXFSZ, 128);
    limits(e);
    e->usage.rlim_soft[RLIMIT_FSIZE] = MIB;
}
static void fsize_signal_in_its_own_name(E *e)
{
    fault(e, SIGXFSZ, 0)->sender_pid = VICTIM;
    limits(e);
    e->usage.rlim_soft[RLIMIT_FSIZE] = MIB;
}
static void fsize_signal_by_itself(E *e)
{
    fsize_signal_in_its_own_name(e);
    kill_by(e, VICTIM, NNG_ROLE_WORKER, false, SIGXFSZ);
}
static void fsize_signal_by_another(E *e)
{
    fsize_signal_in_its_own_name(e);
    e->fault.sender_pid = 999;
}
static void fsize_exception(E *e)
{
    raises(e, "OSError: [Errno 27] File too large");
    limits(e);
    e->usage.rlim_soft[RLIMIT_FSIZE] = MIB;
    failed(e, NNG_C_WRITE, EFBIG, 0, "/data/x");
}
static void fsize_of_the_file_system(E *e)
{
    fsize_exception(e);
    e->usage.rlim_soft[RLIMIT_FSIZE] = ~0ULL;
}
static void fds(E *e)
{
    raises(e, "OSError: [Errno 24] Too many open files");
    limits(e);
    e->usage.rlim_soft[RLIMIT_NOFILE] = 1024;
    e->usage.rlim_hard[RLIMIT_NOFILE] = 4096;
    e->usage.fds = 1024;
    failed(e, NNG_C_OPEN, EMFILE, 0, "");
}
static void fds_silent(E *e)
{
    leaves(e, 1);
    failed(e, NNG_C_OPEN, EMFILE, 0, "/dev/null");
}
static void fds_silent_for_want_of_a_traceback(E *e)
{
    leaves(e, 1);
    failed(e, NNG_C_OPEN, EMFILE, 0, "/usr/lib/python3.11/traceback.py");
    failed(e, NNG_C_OPEN, EMFILE, 0, "/dev/null");
}
static void fds_used_up_to_the_end(E *e)
{
    fds_silent(e);
    limits(e);
    e->usage.rlim_soft[RLIMIT_NOFILE] = 64;
    e->usage.fds = 64;
}
static void fds_closed_again(E *e)
{
    fds_used_up_to_the_end(e);
    e->usage.fds = 5;
}
static void fds_logged_and_survived(E *e)
{
    prints(e, "ERROR:root:too many files open: closing the cache", "<module>",
           "OSError: [Errno 24] Too many open files: '/etc/passwd'", EPOCHS);
    failed(e, NNG_C_OPEN, EMFILE, 0, "/etc/passwd")->time_ns -= 4 * SECOND;
}
static void fds_of_inotify(E *e)
{
    raises(e, "OSError: [Errno 24] inotify instance limit reached");
}
static void fds_of_inotify_in_the_systems_words(E *e)
{
    raises(e, "OSError: [Errno 24] Too many open files");
    limits(e);
    e->usage.rlim_soft[RLIMIT_NOFILE] = 20000;
    e->usage.fds = 128;
}
static void fsize_logged_and_survived(E *e)
{
    fsize_exception(e);
    prints(e, "ERROR", "save", "OSError: [Errno 27] File too large", EPOCHS);
}
static void fds_handled_long_before(E *e)
{
    leaves(e, 1);
    failed(e, NNG_C_OPEN, EMFILE, 0, "/dev/null")->time_ns = e->time_ns - 5 * SECOND;
}
static void fds_ancdata(E *e)
{
    raises(e, "RuntimeError: received 0 items of ancdata");
}
static void threads_pids_cgroup(E *e)
{
    raises(e, "RuntimeError: can't start new thread");
    failed(e, NNG_C_PTHREAD_CREATE, EAGAIN, 0, "");
    e->pids.max = e->pids.current = 100;
    e->pids.max_events = 3;
    e->pids.nproc_soft = 1000000;
    e->pids.user_tasks = 150;
}
static void threads_nproc(E *e)
{
    raises(e, "BlockingIOError: [Errno 11] Resource temporarily unavailable");
    failed(e, NNG_C_FORK, EAGAIN, 0, "");
    e->pids.nproc_soft = 200;
    e->pids.user_tasks = 200;
    e->pids.max = 10000;
    e->pids.current = 200;
    e->pids.max_events = 0;
}
static void threads_nproc_by_the_threads_it_had(E *e)
{
    raises(e, "RuntimeError: can't start new thread");
    failed(e, NNG_C_PTHREAD_CREATE, EAGAIN, 0, "")->free = 38;
    e->pids.nproc_soft = 40;
    e->pids.user_tasks = 2; /* it is gone, and its threads with it */
}
static void threads_nproc_but_root(E *e)
{
    threads_nproc(e);
    e->pids.privileged = true;
}
static void threads_nproc_as_the_failure_recorded_it(E *e)
{
    struct nng_failcall *f;

    raises(e, "RuntimeError: can't start new thread");
    f = failed(e, NNG_C_PTHREAD_CREATE, EAGAIN, 0, "");
    f->free = 48;
    f->total = 50;
    trainer(e);
    e->pids.user_tasks = 2;
}
static void threads_pids_refused_another_session(E *e)
{
    threads_pids_cgroup(e);
    e->fails[0].free = 3;
    e->pids.current = 7;
}
static void threads_pids_with_room_now(E *e)
{
    threads_pids_refused_another_session(e);
    e->pids.max_events = 0;
}
static void threads_pids_by_the_threads_it_had(E *e)
{
    threads_pids_refused_another_session(e);
    e->fails[0].free = 95;
    e->pids.current = 2;
}
static void threads_no_limit_shown(E *e)
{
    raises(e, "RuntimeError: can't start new thread");
    failed(e, NNG_C_PTHREAD_CREATE, EAGAIN, 0, "");
    e->pids.nproc_soft = -1;
    e->pids.user_tasks = 50;
}
static void exception_that_quotes_another(E *e)
{
    raises(e, "ValueError: the server said\nTraceback (most recent call last):\nKeyError: 2");
}
static void exception_of_somebody_else(E *e)
{
    leaves(e, 1);
    says(e, "Traceback (most recent call last):\n  File \"/x/other.py\", line 3, in <module>\n"
            "    x\nValueError: relayed from a log\n");
}
static void threads_openblas(E *e)
{
    dies_of(e, SIGINT);
    says(
        e,
        "OpenBLAS blas_thread_init: pthread_create failed for thread 3 of 64: Resource temporarily "
        "unavailable\nOpenBLAS blas_thread_init: RLIMIT_NPROC 1000000 current, 1000000 max\n"
        "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x\n"
        "KeyboardInterrupt\n");
}
static void threads_abort(E *e)
{
    fault(e, SIGABRT, -6)->sender_pid = VICTIM;
    says(e, "terminate called after throwing an instance of 'std::system_error'\n"
            "  what():  Resource temporarily unavailable\nthread\n");
    failed(e, NNG_C_PTHREAD_CREATE, EAGAIN, 0, "");
    e->pids.max = e->pids.current = 100;
    e->pids.max_events = 1;
}
static void a_lock_is_held(E *e)
{
    raises(e, "BlockingIOError: [Errno 11] Resource temporarily unavailable");
    failed(e, NNG_C_WRITE, EAGAIN, 0, "/tmp/lock");
    e->pids.nproc_soft = 200;
    e->pids.user_tasks = 200;
}
static void a_socket_would_block(E *e)
{
    raises(e, "BlockingIOError: [Errno 11] write could not complete without blocking");
}
static void address_space(E *e)
{
    raises(
        e,
        "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 3.00 GiB for an array with "
        "shape (1,)");
    limits(e);
    e->usage.rlim_soft[RLIMIT_AS] = (uint64_t)(6 * GIB);
}
static void address_space_not_reached(E *e)
{
    address_space(e);
    e->usage.rlim_soft[RLIMIT_AS] = (uint64_t)(60 * GIB);
}
static void address_space_request_unknown(E *e)
{
    raises(e, "MemoryError");
    limits(e);
    e->usage.rlim_soft[RLIMIT_AS] = (uint64_t)(6 * GIB);
    e->usage.vm_peak = (uint64_t)(5 * GIB + 900 * MIB);
}
static void address_space_below_the_machine(E *e)
{
    raises(e, "MemoryError");
    limits(e);
    e->usage.rlim_soft[RLIMIT_AS] = (uint64_t)(20 * GIB);
}
static void address_space_beyond_the_machine(E *e)
{
    raises(e, "MemoryError");
    limits(e);
    e->usage.rlim_soft[RLIMIT_AS] = (uint64_t)(500 * GIB);
}
static void address_space_by_its_call(E *e)
{
    raises(e, "MemoryError");
    limits(e);
    e->usage.rlim_soft[RLIMIT_AS] = (uint64_t)(20 * GIB);
    failed(e, NNG_C_MMAP, ENOMEM, 0, "")->asked = 1024 * GIB;
}
static void address_space_a_probe_long_before(E *e)
{
    raises(e, "MemoryError: replay buffer is full: 4096 episodes");
    limits(e);
    e->usage.rlim_soft[RLIMIT_AS] = (uint64_t)(20 * GIB);
    struct nng_failcall *f = failed(e, NNG_C_MMAP, ENOMEM, 0, "");
    f->asked = 1024 * GIB;
    f->time_ns = e->time_ns - 3 * SECOND;
}
static void address_space_logged_and_survived(E *e)
{
    address_space(e);
    prints(e, "ERROR", "grow", "MemoryError: Unable to allocate 3.00 GiB for an array", EPOCHS);
}
static void address_space_abort(E *e)
{
    fault(e, SIGABRT, -6)->sender_pid = VICTIM;
    limits(e);
    e->usage.rlim_soft[RLIMIT_AS] = (uint64_t)(5 * GIB + MIB);
    says(e, "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  "
            "std::bad_alloc\n");
}
static void more_than_the_machine_has(E *e)
{
    raises(e, "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 931. GiB for an array");
    limits(e);
}
static void memory_error_unexplained(E *e)
{
    raises(e, "MemoryError");
    limits(e);
}
static void commit_limit(E *e)
{
    raises(e, "OSError: [Errno 12] Cannot allocate memory");
    limits(e);
    e->host.overcommit = 2;
    e->host.commit_limit = 32 * GIB;
    e->host.committed = 31 * GIB + 900 * MIB;
}

/* ---- crashes and exits --------------------------------------------------------------------------------- */

static void segv_null(E *e)
{
    fault(e, SIGSEGV, 1)->addr = 8;
}
static void segv_wild_in_a_full_shm(E *e)
{
    fault(e, SIGSEGV, 1)->addr = 0xdead0000;
    e->shm.present = true;
    e->shm.total = 64 * MIB;
    e->shm.free = 0;
}
static void segv_general_protection(E *e)
{
    fault(e, SIGSEGV, 128);
}
static void segv_stack(E *e)
{
    struct nng_fault *f = fault(e, SIGSEGV, 1);
    f->addr = 0x7ffc00000ff8;
    f->stack_overflow = 1;
}
static void segv_trainer(E *e)
{
    segv_null(e);
    trainer(e);
}
static void segv_blind(E *e)
{
    dies_of(e, SIGSEGV);
    e->handed_blind = true;
}
static void segv_beside_oom_counts(E *e)
{
    counted(e, 1, 1, 0, 0);
    fault(e, SIGSEGV, 1)->addr = 8;
}
static void segv_then_killed_while_held(E *e)
{
    fault(e, SIGSEGV, 1)->addr = 8;
    atomic_store(&e->fault.state, NNG_F_HELD);
    e->status.signal = SIGKILL;
    kill_by(e, 4000, NNG_ROLE_TRAINER, true, SIGKILL);
}
static void segv_repaired_then_killed(E *e)
{
    fault(e, SIGSEGV, 1)->addr = 8;
    atomic_store(&e->fault.state, NNG_F_REPAIRED);
    e->status.signal = SIGKILL;
    e->has_fault = true;
}
static void abort_heap(E *e)
{
    struct nng_fault *f = fault(e, SIGABRT, -6);
    f->sender_pid = VICTIM;
    snprintf(f->abort_msg, sizeof f->abort_msg, "free(): invalid pointer\n");
}
static void abort_by_python(E *e)
{
    fault(e, SIGABRT, -6)->sender_pid = VICTIM;
    says(e, "INFO config: Assertion checks are enabled\nit said: invalid pointer\n"
            "Fatal Python error: bad refcount\nFatal Python error: Aborted\n");
}
static void abort_after_idle_talk(E *e)
{
    fault(e, SIGABRT, -6)->sender_pid = VICTIM;
    says(e, "INFO config: Assertion checks are enabled\nFatal Python error: Aborted\n");
}
static void abort_plain(E *e)
{
    fault(e, SIGABRT, -6)->sender_pid = VICTIM;
}
static void abort_blind(E *e)
{
    dies_of(e, SIGABRT);
    e->handed_blind = true;
}
static void fpe(E *e)
{
    fault(e, SIGFPE, 1);
}
static void ill(E *e)
{
    fault(e, SIGILL, 2);
    snprintf(e->fault.ip_path, sizeof e->fault.ip_path, "/v/lib/libopenblas.so");
}
static void bus_misaligned(E *e)
{
    fault(e, SIGBUS, 1);
}
static void exception(E *e)
{
    raises(e, "IndexError: list index out of range");
}
static void exception_and_buffered_output(E *e)
{
    exception(e);
    strcat(e->tail, "loaded 12 cases\n");
    nng_text_traceback(e->tail, &e->tb);
}
static void exception_of_a_relayed_process(E *e)
{
    leaves(e, 1);
    says(e,
         "Process Process-1:\nTraceback (most recent call last):\n  File \"x.py\", line 1, in f\n"
         "ValueError: relayed from a log viewer\nall fine, leaving with a code\n");
}
static void exception_batchgenerators(E *e)
{
    exception(e);
    leaves(e, 0);
    char text[4000];
    snprintf(text, sizeof text, "Exception in background worker 2:\n x\n%.3000s", e->tail);
    says(e, text);
}
static void exception_caught_then_status_0(E *e)
{
    exception(e);
    leaves(e, 0);
}
static void exception_then_much_output(E *e)
{
    char text[2000] = "Traceback (most recent call last):\n  File \"a.py\", line 7, in f\n    x\n"
                      "IndexError: x\n";
    for (int i = 0; i < 50; i++)
        strcat(text, "epoch\n");
    leaves(e, 1);
    says(e, text);
}
static void only_a_witness(E *e)
{
    raises(e, "RuntimeError: One or more background workers are no longer alive. Exiting. Please "
              "check the "
              "print statements above for the actual error message");
    trainer(e);
    e->kind = NNG_K_FAILURE;
}
static void only_a_broken_pipe(E *e)
{
    raises_in(e, "multiprocessing/connection.py\", line 378, in _recv",
              "ConnectionResetError: [Errno 104] Connection reset by peer");
}
static void a_database_is_down(E *e)
{
    raises_in(e, "socket.py\", line 836, in create_connection",
              "ConnectionRefusedError: [Errno 111] Connection refused");
}
static void an_object_store_hung_up(E *e)
{
    raises_in(
        e, "site-packages/requests/adapters.py\", line 501, in send",
        "requests.exceptions.ConnectionError: ('Connection aborted.', ConnectionResetError(104, "
        "'Connection reset by peer'))");
}
static void another_rank_hung_up(E *e)
{
    raises(e, "torch.distributed.DistBackendError: Connection reset by peer");
}
static void eof_after_its_parent(E *e)
{
    raises(e, "EOFError");
    e->parent_gone = true;
}
static void broken_pipe_signal(E *e)
{
    dies_of(e, SIGPIPE);
}
static void exit_three(E *e)
{
    leaves(e, 3);
}
static void exit_zero(E *e)
{
    leaves(e, 0);
}
static void exit_zero_as_proc_tells(E *e)
{
    leaves(e, 0);
    snprintf(e->status.source, sizeof e->status.source, "/proc/4711/stat");
}
static void exit_137(E *e)
{
    leaves(e, 137);
}
static void sigsys(E *e)
{
    fault(e, SIGSYS, 1);
}
static void not_seen_at_all(E *e)
{
    e->status.known = false;
}

/* ---- the table ------------------------------------------------------------------------------------ */

enum { NO = NNG_NO, UNK = NNG_UNKNOWN, POS = NNG_POSSIBLE, LIK = NNG_LIKELY, CER = NNG_CERTAIN };

static const struct row {
    const char *name;
    void (*build)(E *);
    const char *cause;
    int confidence;
} rows[] = {
#define R(f, c, k)                                                                                 \
    {                                                                                              \
#f, f, c, k                                                                                \
    }
    R(shm_full, "shm_exhausted", CER),
    R(shm_full_held, "shm_exhausted", CER),
    R(shm_full_then_terminated_by_trainer, "shm_exhausted", CER),
    R(shm_full_trainer, "shm_exhausted", CER),
    R(shm_full_seen_only, "shm_exhausted", LIK),
    R(shm_full_size_unknown, "shm_exhausted", LIK),
    R(shm_full_but_past_the_end, "file_truncated", CER),
    R(shm_full_past_a_recorded_size, "file_truncated", LIK),
    R(shm_full_last_partial_page, "shm_exhausted", CER),
    R(shm_truncated_with_room, "file_truncated", CER),
    R(shm_inside_with_much_room, "file_truncated", POS),
    R(shm_inside_with_little_room, "shm_exhausted", LIK),
    R(shm_without_a_limit, "worker_bus_error", UNK),
    R(shm_sigbus_sent, "killed_by", CER),
    R(shm_sigbus_sent_while_mapping_is_full, "killed_by", CER),
    R(shm_sigbus_by_kill_record, "killed_by", CER),
    R(shm_blind_and_full, "shm_exhausted", LIK),
    R(shm_blind_with_room, "worker_bus_error", POS),
    R(shm_enospc_alive, "shm_exhausted", CER),
    R(shm_enospc_inodes, "shm_exhausted", CER),
    R(shm_enospc_commit_limit, "shm_exhausted", POS),
    R(shm_enospc_exception, "shm_exhausted", CER),
    R(shm_enospc_semlock, "shm_exhausted", CER),
    R(shm_enospc_words_only, "shm_exhausted", LIK),
    R(shm_refused_not_full, "worker_exception", CER),
    R(shm_failures_then_a_segfault, "worker_segfault", CER),
    R(shm_failures_then_another_exception, "worker_exception", CER),
    R(shm_failure_but_the_words_name_a_disk, "disk_full", LIK),
    R(shm_name_gone, "shm_removed", CER),
    R(shm_name_gone_words_only, "shm_removed", LIK),
    R(shm_object_for_want_of_fds, "fd_limit", CER),
    R(a_data_file_is_missing, "worker_exception", CER),
    R(a_model_is_missing, "worker_exception", CER),
    R(a_folder_named_temp_is_missing, "worker_exception", CER),
    R(labels_are_missing_and_semlock_was_printed, "worker_exception", CER),
    R(shm_of_python_gone, "shm_removed", CER),
    R(shm_with_a_name_of_the_users_gone, "shm_removed", LIK),
    R(file_cut, "file_truncated", CER),
    R(file_cut_on_a_full_disk, "file_truncated", CER),
    R(file_cut_private_mapping, "file_truncated", CER),
    R(file_size_unknown_with_room, "file_truncated", LIK),
    R(gpu_fell_off_the_bus, "worker_bus_error", LIK),
    R(huge_pages_ran_out, "worker_bus_error", LIK),
    R(sparse_file_on_full_ext4, "disk_full", CER),
    R(sparse_file_on_full_ext4_reserved, "disk_full", LIK),
    R(sparse_file_on_full_ext4_clusters_kept, "disk_full", CER),
    R(sparse_file_on_full_btrfs, "disk_full", LIK),
    R(full_tmp_on_tmpfs, "disk_full", CER),
    R(read_fault_on_a_full_disk, "io_error", LIK),
    R(bad_block, "io_error", LIK),
    R(bad_memory_module, "io_error", CER),
    R(disk_full_exception, "disk_full", CER),
    R(disk_full_bare_exception, "disk_full", CER),
    R(disk_full_and_shm_full_bare, "disk_full", LIK),
    R(disk_full_long_ago, "disk_full", LIK),
    R(disk_quota, "disk_full", CER),
    R(disk_full_words_only, "disk_full", LIK),
    R(enospc_bare_words_only, "worker_exception", CER),
    R(enospc_bare_with_room_in_shm, "disk_full", LIK),
    R(numpy_short_write, "disk_full", LIK),
    R(numpy_short_write_under_a_size_limit, "worker_exception", CER),
    R(disk_read_error, "io_error", CER),
    R(disk_read_error_words_only, "io_error", LIK),
    R(disk_read_error_logged_and_survived, "worker_exit", LIK),
    R(terminal_closed, "interrupted", CER),
    R(terminal_of_a_worker_closed, "interrupted", CER),
    R(eio_of_proc, "worker_exception", CER),
    R(disk_full_logged_and_survived, "worker_exit", LIK),
    R(disk_full_logged_just_before_the_end, "worker_exit", LIK),
    R(disk_full_of_the_trainer, "disk_full", CER),
    R(disk_full_of_the_trainer_and_buffered_output, "disk_full", LIK),
    R(disk_full_of_a_worker_and_buffered_output, "disk_full", CER),
    R(disk_full_handled_then_an_exit, "worker_exit", CER),
    R(disk_full_said_at_the_very_end, "disk_full", LIK),
    R(dev_full, "worker_exception", CER),
    R(dev_full_unnamed, "worker_exception", CER),
    R(disk_full_with_room, "disk_full", LIK),
    R(inotify_watches, "worker_exception", CER),
    R(inotify_watches_in_the_systems_words, "worker_exception", CER),
    R(damaged_npy, "corrupt_data", LIK),
    R(damaged_zip, "corrupt_data", LIK),
    R(damaged_npy_told_by_numpy, "corrupt_data", LIK),
    R(a_healthy_array_of_objects, "worker_exception", CER),
    R(a_healthy_checkpoint_for_torch_2_6, "worker_exception", CER),
    R(a_damaged_checkpoint, "corrupt_data", LIK),
    R(a_config_entry_could_not_be_read, "worker_exception", CER),
    R(a_damaged_pickle, "corrupt_data", LIK),
    R(unpickled_from_a_message, "worker_exception", CER),
    R(damaged_data_logged_and_survived, "worker_exit", LIK),
    R(an_ordinary_reshape_mistake, "worker_exception", CER),
    R(oom_counted, "cgroup_oom", CER),
    R(oom_trainer, "cgroup_oom", CER),
    R(oom_three_of_three, "cgroup_oom", CER),
    R(oom_foreign_unknown, "cgroup_oom", LIK),
    R(oom_foreign_there, "cgroup_oom", LIK),
    R(oom_foreign_came_and_went, "cgroup_oom", POS),
    R(oom_fewer_kills_than_deaths, "cgroup_oom", POS),
    R(oom_more_kills_than_deaths, "cgroup_oom", LIK),
    R(oom_counted_some_time_before, "cgroup_oom", LIK),
    R(oom_counted_before_for_a_tool, "cgroup_oom", POS),
    R(oom_counted_before_and_not_alone, "cgroup_oom", POS),
    R(oom_counted_for_a_tool, "cgroup_oom", POS),
    R(oom_counted_away_from_the_limit, "cgroup_oom", LIK),
    R(oom_counted_and_a_status_inferred, "cgroup_oom", LIK),
    R(oomd_and_a_status_inferred, "oomd_kill", LIK),
    R(oom_and_a_kill_of_the_dead, "cgroup_oom", CER),
    R(killed_long_after_a_kill_record, "killed_unknown", UNK),
    R(killed_by_the_first_of_two, "killed_by", CER),
    R(oom_by_pid, "cgroup_oom", CER),
    R(oom_by_name, "cgroup_oom", LIK),
    R(oom_by_name_and_count, "cgroup_oom", CER),
    R(oom_of_others_by_the_log, "killed_unknown", UNK),
    R(oom_count_but_a_sibling_killed_it, "killed_by", LIK),
    R(oom_and_a_kill_record, "cgroup_oom", LIK),
    R(oom_says_the_program, "killed_unknown", UNK),
    R(host_by_pid, "host_oom", CER),
    R(host_by_name, "host_oom", LIK),
    R(host_by_count_and_short, "host_oom", LIK),
    R(host_count_of_another_container, "host_oom", POS),
    R(host_counted_in_its_cgroup, "host_oom", LIK),
    R(host_count_with_plenty_left, "killed_unknown", UNK),
    R(host_count_but_the_log_is_silent, "killed_unknown", UNK),
    R(oomd, "oomd_kill", CER),
    R(killed_by_sibling, "killed_by", CER),
    R(killed_by_trainer, "killed_by", CER),
    R(termed_by_stranger, "killed_by", CER),
    R(termed_from_outside_the_container, "killed_by", CER),
    R(segv_sent, "killed_by", CER),
    R(segv_sent_blind, "killed_by", CER),
    R(abort_sent, "killed_by", CER),
    R(fpe_sent, "killed_by", CER),
    R(raises_segv_at_itself, "killed_by", CER),
    R(kill_record_of_another_signal, "killed_unknown", UNK),
    R(killed_silently, "killed_unknown", UNK),
    R(killed_and_nothing_readable, "killed_unknown", UNK),
    R(killed_with_its_parent, "killed_by", LIK),
    R(terminated_unseen, "killed_unknown", UNK),
    R(trainer_terminated, "interrupted", CER),
    R(trainer_hung_up, "interrupted", CER),
    R(trainer_terminated_by_its_own_shell, "killed_by", CER),
    R(trainer_terminated_by_one_who_is_gone, "interrupted", LIK),
    R(trainer_lost_its_terminal, "interrupted", CER),
    R(trainer_terminated_by_its_worker, "killed_by", CER),
    R(trainer_ctrl_c, "interrupted", LIK),
    R(cpu_soft, "cpu_limit", CER),
    R(cpu_soft_sent, "killed_by", CER),
    R(cpu_hard, "cpu_limit", CER),
    R(cpu_hard_seen_by_the_monitor, "cpu_limit", CER),
    R(cpu_hard_last_seen_before, "cpu_limit", LIK),
    R(cpu_hard_far_away, "killed_unknown", UNK),
    R(cpu_hard_but_oom_counted, "cgroup_oom", CER),
    R(cpu_hard_but_killed_by_sibling, "killed_by", CER),
    R(fsize_signal, "file_size_limit", CER),
    R(fsize_signal_in_its_own_name, "file_size_limit", CER),
    R(fsize_signal_by_itself, "killed_by", CER),
    R(fsize_signal_by_another, "killed_by", CER),
    R(fsize_exception, "file_size_limit", CER),
    R(fsize_of_the_file_system, "file_size_limit", LIK),
    R(fds, "fd_limit", CER),
    R(fds_silent, "worker_exit", LIK),
    R(fds_used_up_to_the_end, "fd_limit", LIK),
    R(fds_closed_again, "worker_exit", LIK),
    R(fds_logged_and_survived, "worker_exit", LIK),
    R(fds_of_inotify, "worker_exception", CER),
    R(fds_of_inotify_in_the_systems_words, "worker_exception", CER),
    R(fsize_logged_and_survived, "worker_exit", LIK),
    R(fds_silent_for_want_of_a_traceback, "fd_limit", CER),
    R(fds_handled_long_before, "worker_exit", LIK),
    R(fds_ancdata, "fd_limit", LIK),
    R(threads_pids_cgroup, "threads_limit", CER),
    R(threads_nproc_as_the_failure_recorded_it, "threads_limit", CER),
    R(threads_pids_refused_another_session, "threads_limit", LIK),
    R(threads_pids_with_room_now, "threads_limit", LIK),
    R(threads_pids_by_the_threads_it_had, "threads_limit", CER),
    R(threads_nproc, "threads_limit", CER),
    R(threads_nproc_by_the_threads_it_had, "threads_limit", CER),
    R(threads_nproc_but_root, "threads_limit", LIK),
    R(threads_no_limit_shown, "threads_limit", LIK),
    R(threads_openblas, "threads_limit", LIK),
    R(threads_abort, "threads_limit", CER),
    R(a_socket_would_block, "worker_exception", CER),
    R(a_lock_is_held, "worker_exception", CER),
    R(address_space, "address_space_limit", CER),
    R(address_space_not_reached, "worker_exception", CER),
    R(address_space_request_unknown, "address_space_limit", LIK),
    R(address_space_below_the_machine, "address_space_limit", LIK),
    R(address_space_beyond_the_machine, "worker_exception", CER),
    R(address_space_abort, "address_space_limit", LIK),
    R(address_space_by_its_call, "address_space_limit", LIK),
    R(address_space_a_probe_long_before, "worker_exception", CER),
    R(address_space_logged_and_survived, "worker_exit", LIK),
    R(more_than_the_machine_has, "host_oom", LIK),
    R(memory_error_unexplained, "worker_exception", CER),
    R(commit_limit, "host_oom", LIK),
    R(segv_null, "worker_segfault", CER),
    R(segv_wild_in_a_full_shm, "worker_segfault", CER),
    R(segv_general_protection, "worker_segfault", CER),
    R(segv_stack, "worker_segfault", CER),
    R(segv_trainer, "worker_segfault", CER),
    R(segv_blind, "worker_segfault", LIK),
    R(segv_beside_oom_counts, "worker_segfault", CER),
    R(segv_then_killed_while_held, "worker_segfault", CER),
    R(segv_repaired_then_killed, "killed_unknown", UNK),
    R(abort_heap, "worker_abort", CER),
    R(abort_plain, "worker_abort", CER),
    R(abort_by_python, "worker_abort", CER),
    R(abort_after_idle_talk, "worker_abort", CER),
    R(abort_blind, "worker_abort", LIK),
    R(fpe, "worker_fpe", CER),
    R(ill, "worker_illegal_instruction", CER),
    R(bus_misaligned, "worker_bus_error", CER),
    R(exception, "worker_exception", CER),
    R(exception_that_quotes_another, "worker_exception", CER),
    R(exception_of_somebody_else, "worker_exception", LIK),
    R(exception_and_buffered_output, "worker_exception", LIK),
    R(exception_of_a_relayed_process, "worker_exit", LIK),
    R(exception_batchgenerators, "worker_exception", CER),
    R(exception_caught_then_status_0, "worker_exception", LIK),
    R(exception_then_much_output, "worker_exit", LIK),
    R(only_a_witness, "unknown", UNK),
    R(only_a_broken_pipe, "unknown", UNK),
    R(a_database_is_down, "worker_exception", CER),
    R(an_object_store_hung_up, "worker_exception", CER),
    R(another_rank_hung_up, "unknown", UNK),
    R(eof_after_its_parent, "unknown", UNK),
    R(broken_pipe_signal, "unknown", UNK),
    R(exit_three, "worker_exit", CER),
    R(exit_zero, "worker_exit", CER),
    R(exit_zero_as_proc_tells, "worker_exit", LIK),
    R(exit_137, "worker_exit", CER),
    R(sigsys, "unknown", UNK),
    R(not_seen_at_all, "unknown", UNK),
#undef R
};
#define ROWS (sizeof rows / sizeof rows[0])

static E ev;
static struct nng_verdict v;

static void every_row_of_the_table(void **state)
{
    static const char *const word[] = {"no", "unknown", "possible", "likely", "certain"};
    int bad = 0;
    (void)state;

    for (size_t i = 0; i < ROWS; i++) {
        base(&ev);
        rows[i].build(&ev);
        nng_causes_decide(&ev, &v);
        if (strcmp(v.cause, rows[i].cause) != 0 || (int)v.confidence != rows[i].confidence) {
            print_error("%s: want %s (%s), got %s (%s): %s\n", rows[i].name, rows[i].cause,
                        word[rows[i].confidence], v.cause, word[v.confidence], v.why.en);
            bad++;
        }
    }
    assert_int_equal(bad, 0);
}

/* Only one cause may say why with certainty; where the row is not certain, none. */
static void no_second_cause_is_certain(void **state)
{
    size_t n = 0;
    const struct nng_cause *const *all = nng_causes_all(&n);
    int bad = 0;
    (void)state;

    for (size_t i = 0; i < ROWS; i++) {
        base(&ev);
        rows[i].build(&ev);
        for (size_t k = 0; k < n; k++) {
            memset(&v, 0, sizeof v);
            if (all[k]->rank >= NNG_RANK_SHAPE || strcmp(all[k]->id, rows[i].cause) == 0)
                continue;
            /* killed_by and interrupted both tell who sent it: two views of one fact */
            if (strcmp(rows[i].cause, "interrupted") == 0 && strcmp(all[k]->id, "killed_by") == 0)
                continue;
            if (all[k]->match(&ev, &v) == NNG_CERTAIN) {
                print_error("%s: %s is certain too: %s\n", rows[i].name, all[k]->id, v.why.en);
                bad++;
            }
        }
    }
    assert_int_equal(bad, 0);
}

static void every_cause_of_the_list_is_there_and_in_the_table(void **state)
{
    static const char *const want[] = {
        "address_space_limit", "cgroup_oom",       "corrupt_data",
        "cpu_limit",           "disk_full",        "fd_limit",
        "file_size_limit",     "file_truncated",   "host_oom",
        "interrupted",         "io_error",         "killed_by",
        "killed_unknown",      "oomd_kill",        "shm_exhausted",
        "shm_removed",         "threads_limit",    "unknown",
        "worker_abort",        "worker_bus_error", "worker_exception",
        "worker_exit",         "worker_fpe",       "worker_illegal_instruction",
        "worker_segfault"};
    size_t n = 0;
    const struct nng_cause *const *all = nng_causes_all(&n);
    (void)state;

    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        bool there = false, tested = false;
        for (size_t k = 0; k < n; k++)
            there |= strcmp(all[k]->id, want[i]) == 0;
        for (size_t k = 0; k < ROWS; k++)
            tested |= strcmp(rows[k].cause, want[i]) == 0;
        if (!there || !tested)
            print_error("%s\n", want[i]);
        assert_true(there && tested);
    }
    for (size_t i = 1; i < n; i++)
        assert_true(strcmp(all[i - 1]->id, all[i]->id) < 0);
}

/* ---- words ------------------------------------------------------------------------------------------ */

static int columns(const char *s)
{
    int n = 0;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if ((c & 0xc0) == 0x80)
            continue;
        n += c >= 0xe3 ? 2 : 1; /* CJK is wide */
    }
    return n;
}

static bool has_cjk(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s >= 0xe4 && (unsigned char)*s <= 0xe9)
            return true;
    return false;
}

static void check_text(const char *row, const char *what, const char *s, bool chinese)
{
    static const char *const fullwidth[] = {"\xef\xbc\x8c", "\xe3\x80\x82", "\xef\xbc\x9a",
                                            "\xef\xbc\x9b", "\xef\xbc\x88", "\xef\xbc\x89",
                                            "\xef\xbc\x81"};
    char clean[1024];

    nng_text_clean_line(clean, sizeof clean, s, strlen(s));
    if (strcmp(clean, s) != 0)
        fail_msg("%s: %s is not clean: %s", row, what, s);
    if (strchr(s, '!') || strstr(s, "please") || strstr(s, "Please c") == s ||
        strstr(s, "(null)") || strstr(s, "segment ") || strstr(s, "  "))
        fail_msg("%s: %s has words that it must not have: %s", row, what, s);
    if (chinese && !has_cjk(s))
        fail_msg("%s: %s is not Chinese: %s", row, what, s);
    if (!chinese && has_cjk(s))
        fail_msg("%s: %s is not English: %s", row, what, s);
    for (size_t i = 0; i < sizeof fullwidth / sizeof fullwidth[0]; i++)
        if (strstr(s, fullwidth[i]))
            fail_msg("%s: %s has full-width punctuation: %s", row, what, s);
}

static void check_words(const char *row, const char *what, const struct nng_words *w, bool needed)
{
    if (!w->en[0] && !w->zh[0] && !needed)
        return;
    if (!w->en[0] || !w->zh[0])
        fail_msg("%s: %s lacks a language: [%s] [%s]", row, what, w->en, w->zh);
    check_text(row, what, w->en, false);
    check_text(row, what, w->zh, true);
}

static void check_verdict(const char *row, const struct nng_verdict *x)
{
    bool root_seen = false, way_round_seen = false;

    check_words(row, "why", &x->why, true);
    check_words(row, "short_why", &x->short_why, true);
    if (columns(x->why.en) > 130 || columns(x->why.zh) > 130)
        fail_msg("%s: why too long: %s", row, x->why.en);
    for (int i = 0; i < x->n_proof; i++) {
        check_words(row, "proof", &x->proof[i], true);
        if (columns(x->proof[i].en) > 150 || columns(x->proof[i].zh) > 150)
            fail_msg("%s: proof too long: %s", row, x->proof[i].en);
    }
    check_words(row, "doubt", &x->doubt, x->confidence != NNG_CERTAIN);
    for (int i = 0; i < x->n_fix; i++) {
        const struct nng_fix *f = &x->fix[i];
        check_words(row, "fix", &f->text, true);
        check_words(row, "cost", &f->cost, false);
        if (columns(f->text.en) > 85)
            fail_msg("%s: fix too long: %s", row, f->text.en);
        if (!f->workaround && f->command[0] && strchr(f->text.en, '('))
            fail_msg("%s: brackets in a remark, which is shown in brackets: %s", row, f->text.en);
        if (f->workaround && !f->cost.en[0])
            fail_msg("%s: a way round without its price: %s", row, f->text.en);
        if (!f->workaround && way_round_seen)
            fail_msg("%s: a root fix after a way round: %s", row, f->text.en);
        if ((strstr(f->command, "NNGUARD_") && !strstr(f->command, "NNGUARD_RESCUE=")) ||
            strchr(f->command, '%'))
            fail_msg("%s: command: %s", row, f->command);
        root_seen |= !f->workaround;
        way_round_seen |= f->workaround;
    }
    if (!root_seen && strcmp(x->cause, "interrupted") != 0)
        fail_msg("%s: no root fix", row);
    if (x->n_fact == 0)
        fail_msg("%s: no facts", row);
    for (int i = 0; i < x->n_fact; i++)
        if (!x->fact[i].name[0] || !strchr(x->fact[i].name, '.') || !x->fact[i].source[0])
            fail_msg("%s: fact %s without name or source", row, x->fact[i].name);
}

static void words_are_whole_in_both_languages_everywhere(void **state)
{
    static const enum nng_place places[] = {NNG_PL_HOST, NNG_PL_DOCKER, NNG_PL_KUBERNETES,
                                            NNG_PL_SLURM, NNG_PL_APPTAINER};
    (void)state;
    for (size_t p = 0; p < sizeof places / sizeof places[0]; p++)
        for (size_t i = 0; i < ROWS; i++)
            for (int plain = 0; plain < 2; plain++) {
                base(&ev);
                rows[i].build(&ev);
                ev.machine.place = places[p];
                if (plain) {
                    ev.machine.nnunet = false;
                    snprintf(ev.machine.trainer, sizeof ev.machine.trainer, "python train.py");
                    ev.who.of = ev.who.ordinal = 1;
                }
                nng_causes_decide(&ev, &v);
                check_verdict(rows[i].name, &v);
            }
}

static const struct nng_fact *fact(const char *name)
{
    static const struct nng_fact none;

    for (int i = 0; i < v.n_fact; i++)
        if (strcmp(v.fact[i].name, name) == 0)
            return &v.fact[i];
    fail_msg("%s: no fact %s", v.cause, name);
    return &none;
}

static void decide(void (*build)(E *))
{
    base(&ev);
    build(&ev);
    nng_causes_decide(&ev, &v);
}

static void hostile_text_does_not_get_into_words(void **state)
{
    (void)state;
    base(&ev);
    shm_full_but_past_the_end(&ev);
    memset(ev.fault.map_path, '\033', sizeof ev.fault.map_path); /* and no terminator */
    memcpy(ev.fault.map_path, "/dev/shm/x\033[31m\r\n", 17);
    nng_causes_decide(&ev, &v);
    check_verdict("hostile path", &v);
    base(&ev);
    sent(&ev, SIGTERM, 5, "ok");
    memset(ev.fault.sender_name, 'A', sizeof ev.fault.sender_name);
    nng_causes_decide(&ev, &v);
    check_verdict("hostile name", &v);
    base(&ev);
    abort_heap(&ev);
    memset(ev.fault.abort_msg, '\007', sizeof ev.fault.abort_msg);
    nng_causes_decide(&ev, &v);
    assert_null(strchr(v.why.en, '\007'));
}

static void numbers_come_from_the_evidence(void **state)
{
    const struct nng_fact *f;
    (void)state;

    decide(shm_full);
    f = fact("devshm.total_bytes");
    assert_int_equal(f->type, NNG_FT_INT);
    assert_int_equal(f->num, 64 * MIB);
    f = fact("devshm.free_bytes");
    assert_true(f->type == NNG_FT_INT && f->num == 0);
    f = fact("fault.si_code");
    assert_true(f->type == NNG_FT_STR && strcmp(f->str, "2") == 0);
    assert_non_null(strstr(v.proof[0].en, "64.0 MiB"));
    assert_non_null(strstr(v.proof[0].zh, "64.0 MiB"));
    decide(killed_silently);
    f = fact("host.vmstat_oom_kill");
    assert_true(f->type == NNG_FT_NULL); /* unknown is null */
    decide(oom_counted);
    f = fact("cgroup.oom_kill");
    assert_true(f->num == 1);
    f = fact("cgroup.limit_bytes");
    assert_true(f->num == 4 * GIB);
}

static int64_t typed(const char *command, const char *after)
{
    const char *p = strstr(command, after);
    char *end;
    int64_t n;

    assert_non_null(p);
    n = strtoll(p + strlen(after), &end, 10);
    return *end == 'g' || *end == 'G' ? n << 30 : n << 20;
}

static void the_size_advised_grows_with_the_need(void **state)
{
    int64_t small, large;
    (void)state;

    decide(shm_full);
    assert_non_null(strstr(v.fix[0].command, "docker run --shm-size="));
    small = typed(v.fix[0].command, "--shm-size=");
    assert_true(small > 64 * MIB);
    base(&ev);
    shm_full(&ev);
    ev.who.of = 24;
    ev.fault.file_size = (uint64_t)(200 * MIB);
    ev.fault.map_end = ev.fault.map_start + (uint64_t)(200 * MIB);
    nng_causes_decide(&ev, &v);
    large = typed(v.fix[0].command, "--shm-size=");
    assert_true(large >= 24 * 200 * MIB);
    assert_true(large > small);
}

static void the_memory_advised_is_above_the_limit(void **state)
{
    (void)state;
    decide(oom_counted);
    assert_true(typed(v.fix[0].command, "--memory=") > 4 * GIB);
    base(&ev);
    oom_counted(&ev);
    ev.machine.place = NNG_PL_SLURM;
    nng_causes_decide(&ev, &v);
    assert_true(typed(v.fix[0].command, "#SBATCH --mem=") > 4 * GIB);
}

static const char *fix_for(enum nng_place place, void (*build)(E *))
{
    base(&ev);
    build(&ev);
    ev.machine.place = place;
    nng_causes_decide(&ev, &v);
    return v.fix[0].command;
}

static void a_fix_is_right_for_the_place(void **state)
{
    (void)state;
    assert_non_null(strstr(fix_for(NNG_PL_HOST, shm_full), "mount -o remount,size="));
    assert_non_null(strstr(fix_for(NNG_PL_KUBERNETES, shm_full), "medium: Memory"));
    assert_non_null(strstr(fix_for(NNG_PL_APPTAINER, shm_full), "--bind /dev/shm"));
    assert_non_null(strstr(fix_for(NNG_PL_KUBERNETES, oom_counted), "limits: {memory: "));
    base(&ev);
    shm_full(&ev);
    snprintf(ev.machine.place_detail, sizeof ev.machine.place_detail, "podman");
    nng_causes_decide(&ev, &v);
    assert_non_null(strstr(v.fix[0].command, "podman run --shm-size="));
    base(&ev);
    killed_silently(&ev);
    ev.machine.place = NNG_PL_SLURM;
    snprintf(ev.machine.place_detail, sizeof ev.machine.place_detail, "Slurm job 8812");
    nng_causes_decide(&ev, &v);
    assert_non_null(strstr(v.fix[0].command, "sacct -j 8812"));
}

static void a_way_round_is_what_the_user_typed(void **state)
{
    bool found = false;
    (void)state;
    decide(shm_full);
    for (int i = 0; i < v.n_fix; i++)
        found |= strncmp(v.fix[i].command, "nnUNet_n_proc_DA=", 17) == 0 &&
                 strstr(v.fix[i].command, " nnUNetv2_train 1 2d 0") != NULL;
    assert_true(found);
    base(&ev);
    oom_counted(&ev);
    snprintf(ev.machine.trainer, sizeof ev.machine.trainer, "nnUNetv2_plan_and_preprocess -d 1");
    nng_causes_decide(&ev, &v);
    found = false;
    for (int i = 0; i < v.n_fix; i++)
        found |= strncmp(v.fix[i].command, "nnUNetv2_plan_and_preprocess -d 1 -np ", 38) == 0;
    assert_true(found);
}

static void the_two_thread_limits_are_told_apart(void **state)
{
    (void)state;
    decide(threads_pids_cgroup);
    assert_string_equal(fact("threads.limit")->str, "pids cgroup");
    decide(threads_nproc);
    assert_string_equal(fact("threads.limit")->str, "RLIMIT_NPROC");
    decide(threads_no_limit_shown);
    assert_int_equal(fact("threads.limit")->type, NNG_FT_NULL);
}

static void an_abort_quotes_what_ended_it(void **state)
{
    (void)state;
    decide(abort_by_python);
    assert_string_equal(fact("abort.message")->str, "Fatal Python error: bad refcount");
    decide(abort_after_idle_talk);
    assert_int_equal(fact("abort.message")->type, NNG_FT_NULL);
    decide(abort_heap);
    assert_non_null(strstr(fact("abort.message")->str, "free(): invalid pointer"));
}

static void a_checkpoint_is_never_to_be_removed(void **state)
{
    (void)state;
    decide(a_damaged_checkpoint);
    assert_int_equal(v.fix[0].workaround, false);
    assert_null(strstr(v.fix[0].text.en, "remove"));
    decide(damaged_npy);
    assert_non_null(strstr(v.fix[0].text.en, "remove it"));
    base(&ev);
    damaged_npy(&ev);
    ev.n_files = 0; /* no file to name */
    nng_causes_decide(&ev, &v);
    for (int i = 0; i < v.n_fix; i++)
        assert_null(strstr(v.fix[i].text.en, "remove"));
}

/* Whatever a torn or hostile journal leaves in the numbers, an answer comes out, and clean. */
static void random_evidence_is_survived(void **state)
{
    static const int signals[] = {0,       SIGBUS,  SIGKILL, SIGSEGV, SIGABRT,
                                  SIGTERM, SIGXCPU, SIGFPE,  64,      -3};
    uint32_t x = 7;
    (void)state;

    for (int round = 0; round < 3000; round++) {
        base(&ev);
        rows[(size_t)round % ROWS].build(&ev);
        unsigned char *p = (unsigned char *)&ev.fault;
        for (int k = 0; k < 30; k++) {
            x = x * 1664525 + 1013904223;
            p[(x >> 8) % sizeof ev.fault] = (unsigned char)(x >> 24);
        }
        int64_t *numbers[] = {&ev.mem.limit,       &ev.mem.kills,      &ev.mem.peak,
                              &ev.shm.total,       &ev.shm.free,       &ev.shm.held_by_run,
                              &ev.shm.biggest_ask, &ev.victim_rss,     &ev.run_rss,
                              &ev.fails[0].asked,  &ev.fails[0].free,  &ev.fails[0].total,
                              &ev.host.total,      &ev.host.available, &ev.host.commit_limit,
                              &ev.pids.max,        &ev.mem.limit_hit};
        x = x * 1664525 + 1013904223;
        *numbers[(x >> 9) % (sizeof numbers / sizeof numbers[0])] = x & 1   ? INT64_MAX
                                                                    : x & 2 ? INT64_MIN
                                                                            : (int64_t)x << 20;
        ev.status.signal = signals[(x >> 13) % 10];
        nng_causes_decide(&ev, &v);
        assert_true(v.confidence >= NNG_UNKNOWN && v.confidence <= NNG_CERTAIN);
        assert_true(v.why.en[0] && v.why.zh[0]);
        assert_true(v.n_fix >= 0 && v.n_fix <= NNG_FIXES);
    }
}

static void environment_is_read_within_its_bounds(void **state)
{
    (void)state;
    base(&ev);
    memcpy(ev.machine.env, "A=1\0OMP_NUM_THREADS=4\0", 22);
    assert_string_equal(nng_ev_env(&ev, "OMP_NUM_THREADS"), "4");
    assert_null(nng_ev_env(&ev, "OMP_NUM"));
    memset(ev.machine.env, 'x', sizeof ev.machine.env);
    assert_null(nng_ev_env(&ev, "OMP_NUM_THREADS"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_of_the_table),
        cmocka_unit_test(no_second_cause_is_certain),
        cmocka_unit_test(every_cause_of_the_list_is_there_and_in_the_table),
        cmocka_unit_test(words_are_whole_in_both_languages_everywhere),
        cmocka_unit_test(hostile_text_does_not_get_into_words),
        cmocka_unit_test(numbers_come_from_the_evidence),
        cmocka_unit_test(the_size_advised_grows_with_the_need),
        cmocka_unit_test(the_memory_advised_is_above_the_limit),
        cmocka_unit_test(a_fix_is_right_for_the_place),
        cmocka_unit_test(a_way_round_is_what_the_user_typed),
        cmocka_unit_test(the_two_thread_limits_are_told_apart),
        cmocka_unit_test(an_abort_quotes_what_ended_it),
        cmocka_unit_test(a_checkpoint_is_never_to_be_removed),
        cmocka_unit_test(random_evidence_is_survived),
        cmocka_unit_test(environment_is_read_within_its_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
