/* SPDX-License-Identifier: MIT
 *
 * Taking the stack of a child that waits in its own SIGSEGV handler (the crash is in the child only;
 * it never runs cmocka's code again), resolving, and what is said where it cannot be taken.
 */
#include "probes_root.h"

#include "probes/read.h"
#include "probes/stack_raw.h"

#include <elf.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>

struct told { /* by the child, in shared memory */
    struct nng_fault fault;
    _Atomic int ready;
    _Atomic long spins;
};
static struct told *told;
static volatile int sink;

static void hold(int sig, siginfo_t *si, void *uc)
{
    const greg_t *g = ((ucontext_t *)uc)->uc_mcontext.gregs;
    (void)si;
    told->fault.signo = sig;
    told->fault.ip = (uint64_t)g[REG_RIP];
    told->fault.sp = (uint64_t)g[REG_RSP];
    told->fault.bp = (uint64_t)g[REG_RBP];
    told->fault.tid = (uint32_t)gettid();
    told->ready = 1;
    for (;;)
        pause();
}

static void *spin(void *arg)
{
    (void)arg;
    for (;;)
        told->spins++;
    return NULL;
}

__attribute__((noinline)) void probes_test_inner(volatile char *p);
__attribute__((noinline, no_sanitize("undefined"))) void probes_test_inner(volatile char *p)
{
    *p = 1;
    sink++;
}

__attribute__((noinline)) void probes_test_outer(volatile char *p);
__attribute__((noinline)) void probes_test_outer(volatile char *p)
{
    probes_test_inner(p);
    sink++;
}

enum way { SEGV_HERE, ABORT, WILD_CALL };

static void *volatile nowhere;

__attribute__((no_sanitize("undefined"))) static void crash(enum way way)
{
    if (way == SEGV_HERE)
        probes_test_outer((char *)nowhere);
    else if (way == ABORT)
        abort();
    else
        ((void (*)(void))nowhere)();
    sink++;
}

/* A child that crashes so and waits in its handler. */
static pid_t victim(enum way way, bool altstack, int threads)
{
    struct sigaction sa = {.sa_sigaction = hold, .sa_flags = SA_SIGINFO};
    pthread_t t;

    nng_probe_root = "";
    told = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(told != MAP_FAILED);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        stack_t ss = {.ss_sp = malloc(65536), .ss_size = 65536};
        alarm(20); /* never left behind */
        if (altstack) {
            sigaltstack(&ss, NULL);
            sa.sa_flags |= SA_ONSTACK;
        }
        sigaction(SIGSEGV, &sa, NULL);
        sigaction(SIGABRT, &sa, NULL);
        for (int i = 0; i < threads; i++)
            pthread_create(&t, NULL, spin, NULL);
        crash(way);
        _exit(0);
    }
    for (int i = 0; i < 10000 && !told->ready; i++)
        usleep(1000);
    assert_true(told->ready);
    return pid;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    munmap(told, sizeof *told);
}

static void stack_of(pid_t pid, struct nng_stack *out)
{
    int err;
    memset(out, 0, sizeof *out);
    struct nng_stack_raw *raw = nng_stack_take(pid, (int)told->fault.tid, &told->fault, 2000, &err);
    assert_non_null(raw);
    if (err == -EPERM) {
        end(pid);
        skip();
    }
    assert_int_equal(err, 0);
    nng_stack_resolve(raw, &told->fault, out);
    assert_true(out->taken);
}

static bool is_us(const char *module)
{
    char exe[256];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    size_t m = strlen(module);
    if (n <= 0)
        return false;
    exe[n] = '\0';
    if (!strncmp(module, "...", 3)) { /* a long path, cut from the left */
        module += 3;
        m -= 3;
    }
    return m <= (size_t)n && !strcmp(exe + (size_t)n - m, module);
}

static int tracer_of(pid_t pid)
{
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    assert_true(nng_probes_slurp(path, text, sizeof text) > 0);
    return (int)nng_probes_keyed(text, "TracerPid");
}

static void names_are(const struct nng_stack *s, int at, const char *a, const char *b,
                      const char *c)
{
    assert_true(s->n >= at + 3);
    assert_string_equal(s->frame[at].symbol, a);
    assert_string_equal(s->frame[at + 1].symbol, b);
    if (c)
        assert_string_equal(s->frame[at + 2].symbol, c);
}

static void test_take__fault__begins_at_the_fault_and_names_are_true(void **state)
{
    static struct nng_stack s;
    (void)state;
    for (int alt = 0; alt < 2; alt++) {
        pid_t pid = victim(SEGV_HERE, alt, 0);
        stack_of(pid, &s);
        assert_true(s.frame[0].ip == told->fault.ip);
        names_are(&s, 0, "probes_test_inner", "probes_test_outer", NULL);
        assert_int_equal(s.culprit, 0);
        assert_true(is_us(s.frame[0].module));
        assert_string_equal(s.why_not, "");
        assert_int_equal(tracer_of(pid), 0);
        end(pid);
    }
}

static void test_take__abort__culprit_is_the_caller_outside_libc(void **state)
{
    static struct nng_stack s;
    (void)state;
    pid_t pid = victim(ABORT, false, 0);
    stack_of(pid, &s);
    assert_true(s.culprit > 0);
    assert_true(is_us(s.frame[s.culprit].module));
    assert_non_null(strstr(s.frame[s.culprit - 1].module, "libc.so"));
    assert_string_equal(s.frame[s.culprit - 1].symbol, "abort");
    end(pid);
}

static void test_take__call_of_a_null_pointer__caller_is_found(void **state)
{
    static struct nng_stack s;
    (void)state;
    pid_t pid = victim(WILD_CALL, true, 0);
    stack_of(pid, &s);
    assert_int_equal(s.frame[0].ip, 0);
    assert_string_equal(s.frame[0].module, "");
    assert_int_equal(s.culprit, 1);
    assert_true(is_us(s.frame[1].module));
    end(pid);
}

static void test_take__busy_threads__stopped_and_let_go(void **state)
{
    static struct nng_stack s;
    (void)state;
    pid_t pid = victim(SEGV_HERE, false, 8);
    stack_of(pid, &s);
    names_are(&s, 0, "probes_test_inner", "probes_test_outer", NULL);
    assert_int_equal(tracer_of(pid), 0);
    long before = told->spins;
    for (int i = 0; i < 2000 && told->spins == before; i++)
        usleep(1000);
    assert_true(told->spins != before); /* they run again */
    end(pid);
}

static void test_take__already_traced__said_and_top_frame_given(void **state)
{
    static struct nng_stack s;
    int err;
    (void)state;
    pid_t pid = victim(SEGV_HERE, false, 0);
    if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0) {
        end(pid);
        skip();
    }
    snprintf(told->fault.ip_path, sizeof told->fault.ip_path, "/x/libfoo.so");
    told->fault.ip_map_start = told->fault.ip - 16;
    struct nng_stack_raw *raw = nng_stack_take(pid, pid, &told->fault, 500, &err);
    assert_non_null(raw);
    assert_int_equal(err, -EPERM);
    nng_stack_resolve(raw, &told->fault, &s);
    assert_false(s.taken);
    assert_non_null(strstr(s.why_not, "already traced"));
    assert_int_equal(s.n, 1);
    assert_int_equal(s.culprit, 0);
    assert_string_equal(s.frame[0].module, "/x/libfoo.so");
    assert_int_equal(s.frame[0].offset, 16);
    end(pid);
}

static void test_take__gone__said(void **state)
{
    static struct nng_stack s;
    int err;
    (void)state;
    nng_probe_root = "";
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    waitpid(pid, NULL, 0);
    struct nng_stack_raw *raw = nng_stack_take(pid, pid, NULL, 500, &err);
    assert_non_null(raw);
    assert_int_equal(err, -ESRCH);
    nng_stack_resolve(raw, NULL, &s);
    assert_false(s.taken);
    assert_string_equal(s.why_not, "the process was gone");
    assert_int_equal(s.culprit, -1);
}

static void hang(void *arg)
{
    (void)arg;
    for (;;)
        pause();
}

static void die(void *arg)
{
    (void)arg;
    raise(SIGKILL);
}

static void test_apart__hangs__killed_in_time(void **state)
{
    (void)state;
    uint64_t start = nng_probes_clock(CLOCK_MONOTONIC);
    assert_int_equal(nng_stack_apart(hang, NULL, 50), -ETIME);
    assert_true(nng_probes_clock(CLOCK_MONOTONIC) - start < 1000000000ULL);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no zombie is left */
    assert_int_equal(nng_stack_apart(die, NULL, 1000), -EIO);
}

/* ---- hostile ELF files ------------------------------------------------------------------------- */
static struct nng_stack_raw *one_frame(const char *path, uint64_t bias, uint64_t ip)
{
    static unsigned char page[NNG_STACK_PAGE];
    struct nng_stack_raw *raw =
        mmap(NULL, sizeof *raw, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(raw != MAP_FAILED);
    int fd = open(path, O_RDONLY);
    memset(page, 0, sizeof page);
    assert_true(fd >= 0 && read(fd, page, sizeof page) > 0);
    close(fd);
    raw->pid = getpid();
    raw->n = raw->n_modules = 1;
    raw->frame[0].ip = ip;
    raw->frame[0].exact = true;
    raw->module[0].bias = bias;
    raw->module[0].hash = nng_stack_hash(page);
    snprintf(raw->module[0].path, sizeof raw->module[0].path, "%s", path);
    return raw;
}

struct elf { /* two symbols with a gap between, no size on the third */
    Elf64_Ehdr eh;
    Elf64_Shdr sh[3];
    Elf64_Sym sym[4];
    char str[32];
};

static void make_elf(struct elf *e)
{
    memset(e, 0, sizeof *e);
    memcpy(e->eh.e_ident, ELFMAG, SELFMAG);
    e->eh.e_ident[EI_CLASS] = ELFCLASS64;
    e->eh.e_shoff = offsetof(struct elf, sh);
    e->eh.e_shentsize = sizeof(Elf64_Shdr);
    e->eh.e_shnum = 3;
    e->sh[1] = (Elf64_Shdr){.sh_type = SHT_DYNSYM,
                            .sh_offset = offsetof(struct elf, sym),
                            .sh_size = sizeof e->sym,
                            .sh_entsize = sizeof(Elf64_Sym),
                            .sh_link = 2};
    e->sh[2] = (Elf64_Shdr){
        .sh_type = SHT_STRTAB, .sh_offset = offsetof(struct elf, str), .sh_size = sizeof e->str};
    memcpy(e->str, "\0first\0second\0third\0al\xffien", 26);
    for (int i = 1; i < 4; i++) {
        e->sym[i].st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC);
        e->sym[i].st_shndx = 1;
        e->sym[i].st_value = (Elf64_Addr)i * 0x100;
        e->sym[i].st_size = i < 3 ? 0x10 : 0;
    }
    e->sym[1].st_name = 1;
    e->sym[2].st_name = 7;
    e->sym[3].st_name = 14;
}

static const char *symbol_at(const struct elf *e, size_t n, uint64_t offset)
{
    static char name[96];
    char path[256];
    put_bytes("/lib.so", e, n);
    snprintf(path, sizeof path, "%s/lib.so", root_path);
    nng_probe_root = "";
    struct nng_stack_raw *raw = one_frame(path, 0x10000, 0x10000 + offset);
    nng_stack_names(raw, nng_probes_clock(CLOCK_MONOTONIC) + 1000000000ULL);
    snprintf(name, sizeof name, "%s", raw->resolved[0].symbol);
    munmap(raw, sizeof *raw);
    nng_probe_root = root_path;
    return name;
}

static void test_names__only_inside_the_symbols_size(void **state)
{
    struct elf e;
    (void)state;
    make_elf(&e);
    assert_string_equal(symbol_at(&e, sizeof e, 0x100), "first");
    assert_string_equal(symbol_at(&e, sizeof e, 0x10f), "first");
    assert_string_equal(symbol_at(&e, sizeof e, 0x110), "");
    assert_string_equal(symbol_at(&e, sizeof e, 0x205), "second");
    assert_string_equal(symbol_at(&e, sizeof e, 0x300), ""); /* no size: not known to be inside */
    assert_string_equal(symbol_at(&e, sizeof e, 0x50), "");
}

static void test_names__hostile_numbers__no_name_no_harm(void **state)
{
    struct elf e;
    (void)state;
#define SPOILED(change)                                                                            \
    do {                                                                                           \
        make_elf(&e);                                                                              \
        change;                                                                                    \
        assert_string_equal(symbol_at(&e, sizeof e, 0x100), "");                                   \
    } while (0)
    SPOILED(e.eh.e_shoff = UINT64_MAX - 8);
    SPOILED(e.eh.e_shoff = 1u << 30);
    SPOILED(e.eh.e_shentsize = 1);
    SPOILED(e.eh.e_shnum = 0);
    SPOILED(e.sh[1].sh_link = 77);
    SPOILED(e.sh[1].sh_entsize = 8);
    SPOILED(e.sh[1].sh_offset = UINT64_MAX - 64);
    SPOILED(e.sh[2].sh_type = SHT_PROGBITS);
    SPOILED(e.sh[2].sh_offset = INT64_MAX);
    SPOILED(e.sh[2].sh_size = 0);
    SPOILED(e.sym[1].st_name = UINT32_MAX);
    SPOILED(e.sym[1].st_name = 20); /* bytes that no compiler writes */
    SPOILED(e.sym[1].st_info = ELF64_ST_INFO(STB_GLOBAL, STT_OBJECT));
    SPOILED(e.sym[1].st_shndx = SHN_UNDEF);
    make_elf(&e);
    e.sh[1].sh_size = UINT64_MAX; /* ends with the file */
    symbol_at(&e, sizeof e, 0x100);
    for (size_t n = 1; n < sizeof e; n += 7)
        symbol_at(&e, n, 0x100);
}

static void test_names__other_file_than_in_memory__no_name(void **state)
{
    struct elf e;
    char path[256];
    (void)state;
    make_elf(&e);
    put_bytes("/lib.so", &e, sizeof e);
    snprintf(path, sizeof path, "%s/lib.so", root_path);
    nng_probe_root = "";
    struct nng_stack_raw *raw = one_frame(path, 0, 0x100);
    raw->module[0].hash++;
    nng_stack_names(raw, nng_probes_clock(CLOCK_MONOTONIC) + 1000000000ULL);
    assert_string_equal(raw->resolved[0].symbol, "");
    munmap(raw, sizeof *raw);
}

static void readable(const char *symbol, const char *expect)
{
    char out[96];
    nng_stack_readable(symbol, out, sizeof out);
    assert_string_equal(out, expect);
}

static void test_readable__common_names_others_unchanged(void **state)
{
    (void)state;
    readable("_ZNK2at18TensorIteratorBase15serial_for_eachEN3c1012function_refIFvPPcEEE",
             "at::TensorIteratorBase::serial_for_each");
    readable("_ZN2at4_ops11add__Tensor4callERNS_6TensorERKS2_", "at::_ops::add__Tensor::call");
    readable("_ZN2at8internal15invoke_parallelIZNS_12parallel_forIiEEvv",
             "at::internal::invoke_parallel<...>");
    readable("_ZN12_GLOBAL__N_13fooEv", "(anonymous)::foo");
    readable("_ZN3c106TensorC2Ev", "c10::Tensor::Tensor");
    readable("_ZN3c106TensorD0Ev", "c10::Tensor::~Tensor");
    readable("_ZSt9terminatev", "_ZSt9terminatev");
    readable("_ZNSt6thread4joinEv", "std::thread::join");
    readable("_Z6decodePKc", "decode");
    readable("_ZL6helperv", "helper");
    readable("_ZN3c10plERKNS_6ScalarE", "_ZN3c10plERKNS_6ScalarE"); /* an operator */
    readable("memcpy", "memcpy");
    readable("", "");
    readable("_Z", "_Z");
    readable("_ZN", "_ZN");
    readable("_ZNE", "_ZNE");
    readable("_ZNC1E", "_ZNC1E");
    readable("_ZN99999999999999999999aE", "_ZN99999999999999999999aE");
    readable("_ZN9shortE", "_ZN9shortE");
}

static void test_from_fault__modules__innocent_ones(void **state)
{
    static const struct {
        const char *path;
        int culprit;
    } of[] = {{"/usr/lib/x86_64-linux-gnu/libc.so.6", -1},
              {"/lib/x86_64-linux-gnu/libc-2.31.so", -1},
              {"/lib64/ld-linux-x86-64.so.2", -1},
              {"/lib/libpthread-2.31.so", -1},
              {"[vdso]", -1},
              {"/opt/libnnguard.so", -1},
              {"/usr/lib/x86_64-linux-gnu/libm.so.6", 0},
              {"/v/lib/libcudart.so", 0},
              {"/v/libc10.so", 0},
              {"/v/libcompute.so", 0}};
    static struct nng_stack s;
    struct nng_fault f;
    (void)state;
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        memset(&f, 0, sizeof f);
        f.ip = 0x5000;
        f.ip_map_start = 0x4000;
        f.ip_map_off = 0x200;
        snprintf(f.ip_path, sizeof f.ip_path, "%s", of[i].path);
        nng_stack_from_fault(&f, &s);
        assert_int_equal(s.culprit, of[i].culprit);
        assert_int_equal(s.frame[0].offset, 0x1200);
    }
    memset(f.ip_path, 'x', sizeof f.ip_path); /* torn: no terminator */
    nng_stack_from_fault(&f, &s);
    assert_true(strlen(s.frame[0].module) < sizeof s.frame[0].module);
    assert_int_equal(strncmp(s.frame[0].module, "...", 3), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROOTED(test_take__fault__begins_at_the_fault_and_names_are_true),
        ROOTED(test_take__abort__culprit_is_the_caller_outside_libc),
        ROOTED(test_take__call_of_a_null_pointer__caller_is_found),
        ROOTED(test_take__busy_threads__stopped_and_let_go),
        ROOTED(test_take__already_traced__said_and_top_frame_given),
        ROOTED(test_take__gone__said),
        ROOTED(test_apart__hangs__killed_in_time),
        ROOTED(test_names__only_inside_the_symbols_size),
        ROOTED(test_names__hostile_numbers__no_name_no_harm),
        ROOTED(test_names__other_file_than_in_memory__no_name),
        ROOTED(test_readable__common_names_others_unchanged),
        ROOTED(test_from_fault__modules__innocent_ones),
    };
    return cmocka_run_group_tests_name("probes: stack", tests, NULL, NULL);
}
