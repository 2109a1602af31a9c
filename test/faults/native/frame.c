/* SPDX-License-Identifier: MIT
 *
 * syscall() from a frame whose words nobody may touch: where a seventh argument would lie begins a
 * page that cannot be written, the return address lies on the one below. On x86_64 only; elsewhere all
 * seven arguments are in registers.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
long on_stack(void *stack, long n, long a, long b);
__asm__(".globl on_stack\n"
        "on_stack:\n"
        "  push %rbx\n"
        "  mov %rsp, %rbx\n"
        "  mov %rdi, %rsp\n"
        "  mov %rsi, %rdi\n"
        "  mov %rdx, %rsi\n"
        "  mov %rcx, %rdx\n"
        "  xor %eax, %eax\n"
        "  call syscall@PLT\n"
        "  mov %rbx, %rsp\n"
        "  pop %rbx\n"
        "  ret\n");
#else
static long on_stack(void *stack, long n, long a, long b)
{
    (void)stack;
    return syscall(n, a, b);
}
#endif

int main(void)
{
    const size_t half = 1 << 16;
    char *p = mmap(NULL, 2 * half, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + half, half, PROT_READ))
        return 2;
    printf("getpid %d\n", on_stack(p + half, SYS_getpid, 0, 0) == getpid());
    printf("kill %ld\n", on_stack(p + half, SYS_kill, getpid(), 0));
    errno = 0;
    printf("close %ld", on_stack(p + half, SYS_close, -1, 0));
    printf(" %d\n", errno);
    printf("seven %ld\n", syscall(SYS_mmap, 0, 4096, PROT_READ, MAP_SHARED, -1, 0));
    return 0;
}
