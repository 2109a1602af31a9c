/* SPDX-License-Identifier: MIT
 *
 * syscall(): CPython sends its pidfd signals this way. Written in assembly, because the hook must leave
 * its caller's frame alone: on x86_64 the seventh argument lies there, or, for a caller that passed
 * fewer, whatever else does, and a compiler that hands seven arguments on writes that word back. It
 * may have been changed by another thread meanwhile (std::atomic::wait on a local waits by syscall).
 * And the hook ends in a jump: a raw clone returns twice.
 */
#include "internal.h"
#include <sys/syscall.h>

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

HOOK_SLOT(long, syscall, (long n, ...))

void nng_signal_syscall(long n, long a, long b, long c);
/* What is left of a system call that libc was not there for. */
long nng_syscall_failed(long r) __attribute__((used, visibility("hidden")));
long nng_syscall_failed(long r)
{
    return nng_ret(r);
}

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#if defined(__x86_64__)
__asm__(
    ".text\n.globl syscall\n.type syscall,@function\n"
    "syscall:\n"
    "  .cfi_startproc\n"
    "  cmp $" TEXT(
        SYS_kill) ", %rdi\n"
                  "  je 2f\n"
                  "  cmp $" TEXT(
                      SYS_tkill) ", %rdi\n"
                                 "  je 2f\n"
                                 "  cmp $" TEXT(
                                     SYS_tgkill) ", %rdi\n"
                                                 "  je 2f\n"
                                                 "  cmp $" TEXT(
                                                     SYS_pidfd_send_signal) ", %rdi\n"
                                                                            "  je 2f\n"
                                                                            "1: mov "
                                                                            "nng_next_syscall(%"
                                                                            "rip), %r11\n"
                                                                            "  test %r11, "
                                                                            "%r11\n"
                                                                            "  jz 3f\n"
                                                                            "  jmp *%r11\n"
                                                                            "2: push %rdi\n"
                                                                            "  push %rsi\n"
                                                                            "  push %rdx\n"
                                                                            "  push %rcx\n"
                                                                            "  push %r8\n"
                                                                            "  push %r9\n"
                                                                            "  sub $8, %rsp\n"
                                                                            "  "
                                                                            ".cfi_adjust_cfa_"
                                                                            "offset 56\n"
                                                                            "  call "
                                                                            "nng_signal_"
                                                                            "syscall\n"
                                                                            "  add $8, %rsp\n"
                                                                            "  pop %r9\n"
                                                                            "  pop %r8\n"
                                                                            "  pop %rcx\n"
                                                                            "  pop %rdx\n"
                                                                            "  pop %rsi\n"
                                                                            "  pop %rdi\n"
                                                                            "  "
                                                                            ".cfi_adjust_cfa_"
                                                                            "offset -56\n"
                                                                            "  jmp 1b\n"
                                                                            "3: mov %rdi, "
                                                                            "%rax\n" /* before the constructor: as libc does it */
                                                                            "  mov %rsi, %rdi\n"
                                                                            "  mov %rdx, %rsi\n"
                                                                            "  mov %rcx, %rdx\n"
                                                                            "  mov %r8, %r10\n"
                                                                            "  mov %r9, %r8\n"
                                                                            "  mov 8(%rsp), "
                                                                            "%r9\n"
                                                                            "  syscall\n"
                                                                            "  cmp $-4095, "
                                                                            "%rax\n"
                                                                            "  jae 4f\n"
                                                                            "  ret\n"
                                                                            "4: mov %rax, "
                                                                            "%rdi\n"
                                                                            "  jmp "
                                                                            "nng_syscall_"
                                                                            "failed\n"
                                                                            "  .cfi_endproc\n"
                                                                            ".size syscall, "
                                                                            ".-syscall\n");
#elif defined(__aarch64__)
__asm__(
    ".text\n.globl syscall\n.type syscall,%function\n"
    "syscall:\n"
    "  .cfi_startproc\n"
    "  cmp x0, #" TEXT(
        SYS_kill) "\n"
                  "  b.eq 2f\n"
                  "  cmp x0, #" TEXT(
                      SYS_tkill) "\n"
                                 "  b.eq 2f\n"
                                 "  cmp x0, #" TEXT(
                                     SYS_tgkill) "\n"
                                                 "  b.eq 2f\n"
                                                 "  cmp x0, #" TEXT(
                                                     SYS_pidfd_send_signal) "\n"
                                                                            "  b.eq 2f\n"
                                                                            "1: adrp x16, "
                                                                            "nng_next_syscall\n"
                                                                            "  ldr x16, [x16, "
                                                                            "#:lo12:nng_next_"
                                                                            "syscall]\n"
                                                                            "  cbz x16, 3f\n"
                                                                            "  br x16\n"
                                                                            "2: stp x29, x30, [sp, "
                                                                            "#-80]!\n"
                                                                            "  .cfi_def_cfa_offset "
                                                                            "80\n"
                                                                            "  .cfi_offset 29, "
                                                                            "-80\n"
                                                                            "  .cfi_offset 30, "
                                                                            "-72\n"
                                                                            "  mov x29, sp\n"
                                                                            "  stp x0, x1, [sp, "
                                                                            "#16]\n"
                                                                            "  stp x2, x3, [sp, "
                                                                            "#32]\n"
                                                                            "  stp x4, x5, [sp, "
                                                                            "#48]\n"
                                                                            "  str x6, [sp, #64]\n"
                                                                            "  bl "
                                                                            "nng_signal_syscall\n"
                                                                            "  ldp x0, x1, [sp, "
                                                                            "#16]\n"
                                                                            "  ldp x2, x3, [sp, "
                                                                            "#32]\n"
                                                                            "  ldp x4, x5, [sp, "
                                                                            "#48]\n"
                                                                            "  ldr x6, [sp, #64]\n"
                                                                            "  ldp x29, x30, [sp], "
                                                                            "#80\n"
                                                                            "  .cfi_restore 29\n"
                                                                            "  .cfi_restore 30\n"
                                                                            "  .cfi_def_cfa_offset "
                                                                            "0\n"
                                                                            "  b 1b\n"
                                                                            "3: mov x8, x0\n" /* before the constructor: as libc does it */
                                                                            "  mov x0, x1\n"
                                                                            "  mov x1, x2\n"
                                                                            "  mov x2, x3\n"
                                                                            "  mov x3, x4\n"
                                                                            "  mov x4, x5\n"
                                                                            "  mov x5, x6\n"
                                                                            "  svc #0\n"
                                                                            "  cmn x0, #4095\n"
                                                                            "  b.cs "
                                                                            "nng_syscall_failed\n"
                                                                            "  ret\n"
                                                                            "  .cfi_endproc\n"
                                                                            ".size syscall, "
                                                                            ".-syscall\n");
#endif
