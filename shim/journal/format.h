/* SPDX-License-Identifier: MIT
 *
 * The journal's layout: the only place that knows it.
 *
 * One file per run, made and mapped shared by the root, mapped by every guarded process of the run
 * and by the monitor. It is append-only in spirit: processes write, the monitor and `nnguard
 * report` read. A writer may be killed at any instruction, so
 *   - a record is reserved by fetch_add on its ring's `next`, and becomes valid only by the final
 *     release store of `commit`, which carries the ticket and a check sum of the record;
 *   - a reader copies first and checks afterwards (journal/snapshot.h); it trusts no length,
 *     offset or string terminator that a dying or hostile writer may have left.
 * The file never grows: rings keep the newest matter and losses can be counted from the tickets,
 * entries of dead processes are used again. So memory stays bounded on any file system (the file
 * counts against the container's memory if it lies on a tmpfs).
 *
 * All integers are host byte order; all times are CLOCK_BOOTTIME nanoseconds unless named real.
 */
#ifndef NNG_JOURNAL_FORMAT_H
#define NNG_JOURNAL_FORMAT_H

#include <stdatomic.h>
#include <stdint.h>

#define NNG_MAGIC 0x314a44524155474eULL /* "NGUARDJ1" */
#define NNG_VERSION 1u

#define NNG_EVENTS_N 1024u /* vital, rare: births, deaths, signals, failures */
#define NNG_TRACE_N 1024u  /* frequent: shm, sem, mmap, sizes */
#define NNG_SAMPLES_N 128u /* written by the monitor, one a second */
#define NNG_PROCS_N 128u
#define NNG_SIZES_N 1024u
#define NNG_SEGMENTS_N 2048u
#define NNG_PROMISES_N 256u
#define NNG_TAIL_SIZE 8192u /* power of two */
#define NNG_FILES_N 4u
#define NNG_PATH 256u
#define NNG_TEXT 184u

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2,
               "shared-memory atomics must be lock-free");

/* ---- records ------------------------------------------------------------------------------
 * X(NAME, "name", ring, meaning of a, b, c, d and text). `call` says which function was hooked,
 * `err` its errno (0: success). `E`: events ring, `T`: trace ring, `S`: samples ring.
 */
/* clang-format off */
#define NNG_RECORD_TYPES(X)                                                                        \
    X(BIRTH, "birth", E)   /* a process joined. a: ppid, b: proc index, c: enum nng_birth,         \
                              d: start ticks; text: comm */                                        \
    X(FORK, "fork", E)     /* parent side. a: child pid, or -1 with err */                         \
    X(EXEC, "exec", E)     /* about to exec; pid is the caller's (maybe a vfork child); text: path \
                              d: parent pid */                                                     \
    X(WAIT, "wait", E)     /* a status was collected. a: pid, b: wait status as waitpid gives it,  \
                              c: 1 if peeked (WNOWAIT) */                                          \
    X(LEAVE, "leave", E)   /* leaves by exit (call EXIT) or _exit. a: code */                      \
    X(KILL, "kill", E)     /* sends a signal. a: target as given (pid, -pgid, 0, -1), b: signal,   \
                              c: pgid where known, d: si_value unused */                           \
    X(SIGNAL, "signal", E) /* a fatal signal arrived; details in the process entry's `fault`.      \
                              a: signo, b: si_code, c: si_pid, d: si_addr */                       \
    X(HELD, "held", E)     /* default action is next; the process waits for its stack. a: signo */ \
    X(REPAIRED, "repaired", E) /* the program's own handler returned: no incident. a: signo */     \
    X(FAIL, "fail", E)     /* a call failed with an errno that can be a cause. a: bytes or count   \
                              asked (-1 unknown), b: free bytes there (-1 unknown), c: total       \
                              bytes there, d: how often this (call, errno) failed in this process; \
                              EMFILE: b fds in use, c their limit; EAGAIN: b threads of this       \
                              process, c RLIMIT_NPROC (-1 none); text: path or name */             \
    X(LIMIT, "limit", E)   /* setrlimit/prlimit. a: resource, b: soft, c: hard, d: target pid */   \
    X(NOTE, "note", E)     /* of the library itself; text: what. a,b free */                       \
    X(SHM_OPEN, "shm_open", T)     /* a: fd, b: oflag; text: name */                               \
    X(SHM_UNLINK, "shm_unlink", T) /* text: name */                                                \
    X(SEM_OPEN, "sem_open", T)     /* text: name */                                                \
    X(SIZE, "size", T)     /* size set by ftruncate/fallocate. a: fd, b: size, c: dev, d: inode */ \
    X(MAP, "map", T)       /* mmap of shared or file mapping. a: address, b: length, c: fd,        \
                              d: prot << 32 | flags */                                             \
    X(SAMPLE, "sample", S) /* a: cgroup memory usage, b: sum of RSS of the run, c: /dev/shm used,  \
                              d: MemAvailable of the host; text: "pid:rss_kib ..." largest first */
/* clang-format on */

enum nng_rec_type {
    NNG_R_NONE = 0,
#define X(n, s, r) NNG_R_##n,
    NNG_RECORD_TYPES(X)
#undef X
        NNG_R_COUNT
};

enum nng_birth { NNG_B_ROOT = 1, NNG_B_EXEC = 2, NNG_B_FORK = 3 };

/* Which function a record came from; the name is what a report shows. */
/* clang-format off */
#define NNG_CALLS(X)                                                                               \
    X(OTHER, "?") X(FORK, "fork") X(VFORK, "vfork") X(POSIX_SPAWN, "posix_spawn") X(EXEC, "exec")  \
    X(WAITPID, "waitpid") X(WAITID, "waitid") X(WAIT4, "wait4") X(EXIT, "exit") X(_EXIT, "_exit")  \
    X(KILL, "kill") X(TGKILL, "tgkill") X(KILLPG, "killpg") X(PIDFD_SEND, "pidfd_send_signal")     \
    X(RAISE, "raise") X(ABORT, "abort") X(SHM_OPEN, "shm_open") X(SHM_UNLINK, "shm_unlink")        \
    X(SEM_OPEN, "sem_open") X(FTRUNCATE, "ftruncate") X(POSIX_FALLOCATE, "posix_fallocate")        \
    X(FALLOCATE, "fallocate") X(MMAP, "mmap") X(MREMAP, "mremap") X(OPEN, "open")                  \
    X(FOPEN, "fopen") X(WRITE, "write") X(READ, "read") X(SOCKET, "socket") X(PIPE, "pipe")        \
    X(DUP, "dup") X(FSYNC, "fsync") X(MEMFD, "memfd_create") X(PTHREAD_CREATE, "pthread_create")   \
    X(SETRLIMIT, "setrlimit") X(RECVMSG, "recvmsg") X(MKDIR, "mkdir") X(EPOLL, "epoll_create")     \
    X(ACCEPT, "accept")
/* clang-format on */

enum nng_call {
#define X(n, s) NNG_C_##n,
    NNG_CALLS(X)
#undef X
        NNG_C_COUNT
};

/* The function's name; "?" for a number that is none (a journal is hostile input). */
static inline const char *nng_call_name(unsigned call)
{
    static const char *const name[] = {
#define X(n, s) s,
        NNG_CALLS(X)
#undef X
    };
    return call < NNG_C_COUNT ? name[call] : "?";
}

struct nng_rec {             /* 256 bytes, one slot */
    _Atomic uint64_t commit; /* (ticket + 1) << 32 | check of all that follows; 0: being written */
    uint16_t type;           /* enum nng_rec_type */
    uint16_t call;           /* enum nng_call */
    uint32_t pid;
    uint32_t tid;
    int32_t err;
    uint64_t time_ns;
    int64_t a, b, c, d;
    uint16_t text_len; /* bytes of text used; text is not terminated */
    uint16_t flags;    /* NNG_RF_* */
    uint32_t proc;     /* writer's index in procs, or NNG_PROCS_N */
    char text[NNG_TEXT];
};
_Static_assert(sizeof(struct nng_rec) == 256, "one slot is 256 bytes");

#define NNG_RF_DEVSHM 1u   /* the file lies on the file system of /dev/shm */
#define NNG_RF_VFORK 2u    /* written from a vfork child */
#define NNG_RF_CUT 4u      /* text was cut, from the left */
#define NNG_RF_INODES 8u   /* FAIL: no free inode there (blocks may be free) */
#define NNG_RF_SUSPECT 16u /* may be an incident: the monitor must look now (rings the bell) */
#define NNG_RF_DEAD 32u    /* KILL: the target (of a group: its leader) was dead or dying already */

struct nng_ring {
    _Atomic uint64_t next; /* tickets given out; slot = ticket % n */
    uint64_t pad[7];       /* own cache line */
};

/* ---- a process ---------------------------------------------------------------------------- */
enum nng_proc_state {
    NNG_P_FREE = 0,
    NNG_P_CLAIMED = 1, /* being filled in */
    NNG_P_LIVE = 2,
    NNG_P_LEFT = 3, /* said good-bye with a code; may be used again if no other is free */
};

enum nng_fault_state {
    NNG_F_NONE = 0,
    NNG_F_FILLING = 1,
    NNG_F_SEEN = 2,     /* siginfo and mapping complete; the program's handler runs */
    NNG_F_HELD = 3,     /* default action next; waits on `release` */
    NNG_F_REPAIRED = 4, /* the program's handler returned */
    NNG_F_DYING = 5,    /* released (or time over), default action under way */
};

enum nng_size_source {
    NNG_SZ_UNKNOWN = 0,
    NNG_SZ_FD = 1,       /* fstat of an open fd with the same dev:inode */
    NNG_SZ_PATH = 2,     /* stat of the path in maps, same inode */
    NNG_SZ_MAPFILE = 3,  /* stat of /proc/self/map_files/... */
    NNG_SZ_RECORDED = 4, /* as last set by a recorded ftruncate/fallocate */
};

struct nng_fault {
    _Atomic uint32_t state;   /* enum nng_fault_state, stored last (release) */
    _Atomic uint32_t release; /* futex: 1 when the monitor is done with the stack */
    int32_t signo, code, err;
    int32_t sender_pid; /* si_pid where si_code <= 0, else -1; 0: from outside this pid namespace */
    uint32_t sender_uid;
    uint32_t tid;
    uint64_t addr; /* si_addr; 0 where none */
    uint64_t time_ns;
    uint64_t ip, sp, bp;
    uint32_t on_altstack;
    uint32_t has_map;
    /* the mapping that holds addr, from /proc/self/maps */
    uint64_t map_start, map_end, map_off;
    uint32_t map_major, map_minor;
    uint64_t map_ino;
    uint32_t map_prot;    /* PROT_* */
    uint32_t map_shared;  /* 1: MAP_SHARED */
    uint32_t map_deleted; /* name ended in " (deleted)" (taken off below) */
    uint32_t map_devshm;  /* on the file system of /dev/shm */
    uint64_t file_size;   /* valid unless size_source is UNKNOWN */
    uint32_t size_source; /* enum nng_size_source */
    uint32_t statfs_ok;
    /* statfs of that file system at that instant */
    uint64_t fs_type, fs_bsize, fs_blocks, fs_bfree, fs_bavail, fs_files, fs_ffree;
    /* nearest mappings around ip and sp, for stack overflow and the top frame */
    uint64_t ip_map_start, ip_map_off;
    uint64_t stack_low;      /* lowest address of the stack mapping nearest to sp/addr */
    uint32_t handlers;       /* bit 0: program had its own handler, bit 1: faulthandler slot */
    uint32_t stack_overflow; /* addr within a page or two of sp, below the stack mapping */
    char map_path[NNG_PATH];
    char ip_path[NNG_PATH];
    char sender_name[16];
    char abort_msg[NNG_PATH]; /* glibc's __abort_msg, SIGABRT only */
};

struct nng_usage { /* written when a process ends badly, and on failures that need it */
    _Atomic uint32_t valid;
    uint32_t threads, fds, pad;
    uint64_t rlim_soft[16], rlim_hard[16];     /* RLIM_INFINITY as ~0 */
    uint64_t vm_size, vm_peak, vm_rss, vm_hwm; /* bytes */
    uint64_t utime_ns, stime_ns;
};

struct nng_file {
    uint64_t time_ns;
    char path[NNG_PATH]; /* cut from the left; zero terminated unless torn */
};

struct nng_proc {
    _Atomic uint32_t state;    /* enum nng_proc_state */
    uint32_t pid, ppid, birth; /* enum nng_birth */
    uint64_t start_ticks;      /* field 22 of /proc/PID/stat; 0 unknown */
    uint64_t birth_ns;
    uint64_t generation;       /* ticket of its BIRTH record: tells an entry's users apart */
    uint32_t python;           /* 1: signal handlers are in place */
    int32_t rank;              /* RANK/SLURM_PROCID/OMPI_COMM_WORLD_RANK or -1 */
    _Atomic int32_t exit_code; /* set at LEAVE; -1 before */
    _Atomic uint32_t tail_pos; /* total bytes ever appended (mod 2^32) */
    _Atomic uint32_t files_pos;
    uint32_t pad0;
    char comm[16];
    char
        cmdline[512]; /* arguments separated by spaces; secrets never: values of --*token*, --*key*,
                          --*password* are replaced by "***" */
    struct nng_fault fault;
    struct nng_usage usage;
    struct nng_file files[NNG_FILES_N];
    char tail[NNG_TAIL_SIZE]; /* ring; last bytes written to fds 1 and 2 and stderr */
};

/* ---- sizes of shared files as last set by this run ------------------------------------------ */
struct nng_size {
    _Atomic uint64_t check; /* hash(dev, ino, size, pid) | 1; 0: empty or being written */
    uint64_t dev, ino, size;
    uint64_t time_ns;
    uint32_t pid, pad;
};

/* ---- segments that did not fit into /dev/shm (NNGUARD_RESCUE, preload/rescue.h) --------------- */
enum nng_segment_state {
    NNG_SG_FREE = 0,
    NNG_SG_FILLING = 1, /* being made: its size counts as taken */
    NNG_SG_WANT = 2,    /* made, has a name; the monitor is asked to hold it */
    NNG_SG_HELD = 3,    /* the monitor holds it: it lives on when its maker closes it or dies */
    NNG_SG_DROP = 4,    /* the name is gone: the monitor lets it go and frees the entry */
};

/* One cache line; what another process reads is written before state, by release. Entry i's memory has
 * the number rescue_fd_base + 2i in the monitor, so that the link in /dev/shm, /proc/MONITOR/fd/NUMBER,
 * can be made before the monitor is asked. */
struct nng_segment {
    _Atomic uint32_t state; /* enum nng_segment_state (futex) */
    uint32_t pid;           /* its maker */
    _Atomic uint64_t ino;   /* of the link that has the name in /dev/shm */
    uint64_t mem_ino;       /* of the memory behind it */
    uint64_t size;
    int32_t mem_fd, name_fd; /* in its maker: open until the monitor has answered */
    int32_t held, held_name; /* in the monitor; -1: it could not take them */
    uint64_t time_ns;
    uint64_t unused;
};
_Static_assert(sizeof(struct nng_segment) == 64, "one line");

/* ---- sizes that were given and not yet used ---------------------------------------------------- */
/* ftruncate promises nothing: what fits now may be gone at the touch. So that the next one knows, each
 * enters here what it gave; how much of it is still a hole is looked up when it matters. */
struct nng_promise {
    _Atomic uint64_t ticket; /* of its writer, + 1; 0: free, or being written */
    uint64_t ino, size, time_ns;
    uint32_t pid;
    int32_t fd;      /* in that process */
    uint32_t memory; /* 1: ordinary memory, 0: /dev/shm */
    uint32_t pad;
};

/* ---- health of the library itself ------------------------------------------------------------ */
#define NNG_HEALTH(X)                                                                              \
    X(NO_PROC_ENTRY, "processes without an entry (all were taken)")                                \
    X(OWN_SIGBUS, "recording stopped: the journal's disk could not hold a page")                   \
    X(NO_MONITOR, "the monitor could not be started")                                              \
    X(HOLD_TIMEOUT, "a crashing process was let go before its stack was taken")                    \
    X(CLOSE_TIMEOUT, "the root left before the monitor had answered")                              \
    X(NESTED, "a second fault inside a handler")                                                   \
    X(NO_ALTSTACK, "threads without an alternate signal stack")

enum nng_health {
#define X(n, s) NNG_H_##n,
    NNG_HEALTH(X)
#undef X
        NNG_H_COUNT
};

/* ---- header: the first page --------------------------------------------------------------- */
enum nng_monitor_state {
    NNG_M_NONE = 0,    /* NNGUARD_MONITOR=0 or not yet started */
    NNG_M_STARTED = 1, /* exec'd by the root */
    NNG_M_READY = 2,   /* follows the journal */
    NNG_M_GONE = 3,    /* left in good order; report is final */
    NNG_M_FAILED = 4,  /* could not be started (missing, no permission, ...) */
};

enum nng_closing { NNG_CL_NONE = 0, NNG_CL_ASKED = 1, NNG_CL_SPOKEN = 2 };

struct nng_header {
    uint64_t magic;
    uint32_t version, header_size;
    uint64_t file_size;
    char boot_id[40];
    uint64_t pidns; /* inode of /proc/self/ns/pid */
    uint32_t uid, root_pid;
    uint64_t root_start_ticks;
    uint64_t start_real_ns, start_boot_ns; /* the same instant by both clocks */
    uint64_t shm_dev;                      /* st_dev of /dev/shm at start; 0: none */
    _Atomic uint32_t bell;                 /* futex: +1 and wake at births, suspects, closing */
    _Atomic uint32_t suspects;             /* suspect records written ... */
    _Atomic uint32_t suspects_seen;        /* ... and how many the monitor has dealt with (futex) */
    _Atomic uint32_t incidents;            /* incidents the monitor has reported so far */
    _Atomic uint32_t closing;              /* enum nng_closing (futex) */
    _Atomic int32_t monitor_pid;
    _Atomic uint32_t monitor_state; /* enum nng_monitor_state */
    _Atomic int32_t root_code;      /* exit code the root announced; -1 before */
    _Atomic uint64_t health[16];    /* by enum nng_health */
    int32_t rank;
    uint32_t flags; /* NNG_HF_* */
    char host[64];
    char run_dir[512];  /* empty: journal is a memfd, nothing can be written */
    char command[1024]; /* root's command line, arguments separated by NUL, secrets replaced */
    char env[1024];     /* allow-listed NAME=VALUE separated by NUL */
    _Atomic uint32_t
        rescue_bell; /* futex: +1 and wake when a segment's state asks for the monitor */
    _Atomic uint32_t rescue_named; /* segments that can be found by name now */
    _Atomic uint32_t rescue_top;   /* entries below this one may be in use */
    _Atomic uint32_t rescue_deaf;  /* the monitor did not answer: nobody waits for it any more */
    _Atomic uint64_t rescue_segments, rescue_bytes; /* ever made */
    _Atomic uint64_t rescue_lived,
        rescue_lived_at;             /* alive when last counted, and rescue_bytes then */
    _Atomic uint64_t rescue_biggest; /* largest single one */
    _Atomic uint64_t rescue_peak; /* no more were alive at a time, up to when it was last counted */
    _Atomic uint64_t rescue_refused, rescue_refused_ask, rescue_refused_room, rescue_refused_limit;
    _Atomic uint32_t rescue_fd_base,
        rescue_fd_n;                 /* the monitor's numbers for segments; 0: not yet */
    _Atomic uint64_t rescue_mem_dev; /* st_dev of rescued memory; 0 before the first */
    _Atomic uint64_t promises;       /* tickets given out */
    _Atomic int64_t promised;        /* not less than what of /dev/shm is given and not used */
    _Atomic uint64_t holes_at,
        holes_cost;        /* of files that have a name there: when measured (ns) ... */
    _Atomic int64_t holes; /* ... and how much */
};
_Static_assert(sizeof(struct nng_header) <= 4096, "the header is one page");

#define NNG_HF_PID1 1u      /* the root is PID 1 of its namespace */
#define NNG_HF_SUBREAPER 2u /* the root is a child subreaper */

struct nng_journal { /* the whole file */
    union {
        struct nng_header hdr;
        char page[4096];
    };
    struct nng_ring events_ring, trace_ring, samples_ring;
    char pad[4096 - 3 * sizeof(struct nng_ring)];
    struct nng_rec events[NNG_EVENTS_N];
    struct nng_rec trace[NNG_TRACE_N];
    struct nng_rec samples[NNG_SAMPLES_N];
    struct nng_size sizes[NNG_SIZES_N];
    struct nng_proc procs[NNG_PROCS_N];
    struct nng_segment segments[NNG_SEGMENTS_N];
    struct nng_promise promises[NNG_PROMISES_N];
};

/* [as-safe] Check sum over a record's content, without `commit`. Cheap, not cryptographic: it only
 * has to tell a whole record from a mixture of two. */
static inline uint32_t nng_rec_check(const struct nng_rec *r, uint32_t ticket)
{
    const unsigned char *p = (const unsigned char *)r + sizeof(uint64_t);
    uint32_t used = r->text_len <= NNG_TEXT ? r->text_len : NNG_TEXT;
    uint32_t words =
        (uint32_t)((sizeof(struct nng_rec) - sizeof(uint64_t) - NNG_TEXT) / 8) + (used + 7u) / 8u;
    uint64_t h = 0x9e3779b97f4a7c15ULL ^ ticket;
    for (uint32_t i = 0; i < words; i++) {
        uint64_t w;
        __builtin_memcpy(&w, p + 8u * i, 8);
        h = (h ^ w) * 0xff51afd7ed558ccdULL;
        h ^= h >> 32;
    }
    return (uint32_t)h;
}

/* [as-safe] The check word of a sizes entry; never 0. */
static inline uint64_t nng_size_check(uint64_t dev, uint64_t ino, uint64_t size, uint32_t pid)
{
    uint64_t h = dev * 0x9e3779b97f4a7c15ULL;
    h = (h ^ ino) * 0xff51afd7ed558ccdULL;
    h = (h ^ (h >> 29) ^ size) * 0xc4ceb9fe1a85ec53ULL;
    return (h ^ (h >> 32) ^ pid) | 1u;
}

#endif
