/* SPDX-License-Identifier: MIT
 *
 * What makes descriptors: only the failures count (EMFILE, ENFILE, ENOMEM), and a received message
 * whose descriptors were cut off, which is how passing a tensor fails at the limit. And the limits
 * themselves as they are set.
 */
#include "rescue.h"
#include <fcntl.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int made(enum nng_call call, int r)
{
    if (__builtin_expect(r < 0, 0) && nng_st.on)
        nng_fail(call, errno, -1, NULL, -1);
    return r;
}

HOOK(int, socket, (int domain, int type, int protocol))
{
    return made(NNG_C_SOCKET, NEXT(socket)
                                  ? NEXT(socket)(domain, type, protocol)
                                  : (int)nng_ret(nng_sys3(SYS_socket, domain, type, protocol)));
}

HOOK(int, socketpair, (int domain, int type, int protocol, int fds[2]))
{
    return made(NNG_C_SOCKET, NEXT(socketpair) ? NEXT(socketpair)(domain, type, protocol, fds)
                                               : (int)nng_ret(nng_sys4(SYS_socketpair, domain, type,
                                                                       protocol, fds)));
}

HOOK(int, accept, (int fd, struct sockaddr *__restrict addr, socklen_t *__restrict len))
{
    return made(NNG_C_ACCEPT, NEXT(accept) ? NEXT(accept)(fd, addr, len)
                                           : (int)nng_ret(nng_sys3(SYS_accept, fd, addr, len)));
}

HOOK(int, accept4, (int fd, struct sockaddr *__restrict addr, socklen_t *__restrict len, int flags))
{
    return made(NNG_C_ACCEPT, NEXT(accept4)
                                  ? NEXT(accept4)(fd, addr, len, flags)
                                  : (int)nng_ret(nng_sys4(SYS_accept4, fd, addr, len, flags)));
}

HOOK(int, pipe, (int fds[2]))
{
    return made(NNG_C_PIPE,
                NEXT(pipe) ? NEXT(pipe)(fds) : (int)nng_ret(nng_sys2(SYS_pipe2, fds, 0)));
}

HOOK(int, pipe2, (int fds[2], int flags))
{
    return made(NNG_C_PIPE, NEXT(pipe2) ? NEXT(pipe2)(fds, flags)
                                        : (int)nng_ret(nng_sys2(SYS_pipe2, fds, flags)));
}

/* Afterwards two descriptors may have one file (rescue.h). */
HOOK(int, dup, (int fd))
{
    nng_rescue_may_spread();
    return made(NNG_C_DUP, NEXT(dup) ? NEXT(dup)(fd) : (int)nng_ret(nng_sys1(SYS_dup, fd)));
}

static int raw_dup2(int from, int to)
{
    if (from == to) /* dup3 refuses what dup2 allows */
        return nng_ret(nng_sys3(SYS_fcntl, from, F_GETFD, 0)) < 0 ? -1 : to;
    return (int)nng_ret(nng_sys3(SYS_dup3, from, to, 0));
}

HOOK(int, dup2, (int from, int to))
{
    nng_rescue_may_spread();
    return made(NNG_C_DUP, NEXT(dup2) ? NEXT(dup2)(from, to) : raw_dup2(from, to));
}

HOOK(int, dup3, (int from, int to, int flags))
{
    nng_rescue_may_spread();
    return made(NNG_C_DUP, NEXT(dup3) ? NEXT(dup3)(from, to, flags)
                                      : (int)nng_ret(nng_sys3(SYS_dup3, from, to, flags)));
}

/* os.dup is fcntl(F_DUPFD_CLOEXEC). Every argument of fcntl fits a pointer on our machines. */
#define FCNTL_BODY(name)                                                                           \
    {                                                                                              \
        va_list ap;                                                                                \
        va_start(ap, cmd);                                                                         \
        void *arg = va_arg(ap, void *);                                                            \
        va_end(ap);                                                                                \
        if (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC)                                              \
            nng_rescue_may_spread();                                                               \
        int r = NEXT(name) ? NEXT(name)(fd, cmd, arg)                                              \
                           : (int)nng_ret(nng_sys3(SYS_fcntl, fd, cmd, arg));                      \
        return cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC ? made(NNG_C_DUP, r) : r;                  \
    }
HOOK(int, fcntl, (int fd, int cmd, ...))
FCNTL_BODY(fcntl)

/* A libc before 2.28 has no fcntl64; then nobody but a dlsym would ask for it. */
HOOK(int, fcntl64, (int fd, int cmd, ...))
FCNTL_BODY(fcntl64)

HOOK(int, epoll_create, (int size))
{
    return made(NNG_C_EPOLL, NEXT(epoll_create) ? NEXT(epoll_create)(size)
                                                : (int)nng_ret(nng_sys1(SYS_epoll_create1, 0)));
}

HOOK(int, epoll_create1, (int flags))
{
    return made(NNG_C_EPOLL, NEXT(epoll_create1)
                                 ? NEXT(epoll_create1)(flags)
                                 : (int)nng_ret(nng_sys1(SYS_epoll_create1, flags)));
}

HOOK(int, eventfd, (unsigned count, int flags))
{
    return made(NNG_C_EPOLL, NEXT(eventfd) ? NEXT(eventfd)(count, flags)
                                           : (int)nng_ret(nng_sys2(SYS_eventfd2, count, flags)));
}

HOOK(int, memfd_create, (const char *name, unsigned flags))
{
    return made(NNG_C_MEMFD, NEXT(memfd_create)
                                 ? NEXT(memfd_create)(name, flags)
                                 : (int)nng_ret(nng_sys2(SYS_memfd_create, name, flags)));
}

HOOK(ssize_t, recvmsg, (int fd, struct msghdr *msg, int flags))
{
    bool wants_fds = msg && msg->msg_control && msg->msg_controllen >= sizeof(struct cmsghdr);
    ssize_t n = NEXT(recvmsg) ? NEXT(recvmsg)(fd, msg, flags)
                              : nng_ret(nng_sys3(SYS_recvmsg, fd, msg, flags));
    if (n >= 0 && wants_fds && msg->msg_flags & MSG_CTRUNC && nng_st.on)
        nng_fail(NNG_C_RECVMSG, EMFILE, -1, "message with descriptors", -1);
    return n;
}

/* Only for what it may carry away: a descriptor (rescue.h). */
HOOK(ssize_t, sendmsg, (int fd, const struct msghdr *msg, int flags))
{
    if (msg && msg->msg_control && msg->msg_controllen)
        nng_rescue_may_spread();
    return NEXT(sendmsg) ? NEXT(sendmsg)(fd, msg, flags)
                         : nng_ret(nng_sys3(SYS_sendmsg, fd, msg, flags));
}

/* ---- limits ------------------------------------------------------------------------------------- */
static void limit_set(int resource, uint64_t soft, uint64_t hard, int pid)
{
    int e = errno;
    nng_put(&(struct nng_put){.type = NNG_R_LIMIT,
                              .call = NNG_C_SETRLIMIT,
                              .a = resource,
                              .b = (int64_t)soft,
                              .c = (int64_t)hard,
                              .d = pid});
    errno = e;
}

/* NULL is no error to the kernel: nothing changes. libc's header says that it never comes, and the
 * compiler would believe that. */
static bool given(const void *p)
{
    __asm__("" : "+r"(p));
    return p;
}

HOOK(int, setrlimit, (__rlimit_resource_t resource, const struct rlimit *lim))
{
    int r = NEXT(setrlimit) ? NEXT(setrlimit)(resource, lim)
                            : (int)nng_ret(nng_sys4(SYS_prlimit64, 0, resource, lim, NULL));
    if (!r && given(lim) && nng_st.on)
        limit_set((int)resource, lim->rlim_cur, lim->rlim_max, 0);
    return r;
}

HOOK(int, setrlimit64, (__rlimit_resource_t resource, const struct rlimit64 *lim))
{
    int r = NEXT(setrlimit64) ? NEXT(setrlimit64)(resource, lim)
                              : (int)nng_ret(nng_sys4(SYS_prlimit64, 0, resource, lim, NULL));
    if (!r && given(lim) && nng_st.on)
        limit_set((int)resource, lim->rlim_cur, lim->rlim_max, 0);
    return r;
}

HOOK(int, prlimit,
     (pid_t pid, enum __rlimit_resource resource, const struct rlimit *lim, struct rlimit *old))
{
    int r = NEXT(prlimit) ? NEXT(prlimit)(pid, resource, lim, old)
                          : (int)nng_ret(nng_sys4(SYS_prlimit64, pid, resource, lim, old));
    if (!r && lim && nng_st.on)
        limit_set((int)resource, lim->rlim_cur, lim->rlim_max, pid);
    return r;
}

HOOK(int, prlimit64,
     (pid_t pid, enum __rlimit_resource resource, const struct rlimit64 *lim, struct rlimit64 *old))
{
    int r = NEXT(prlimit64) ? NEXT(prlimit64)(pid, resource, lim, old)
                            : (int)nng_ret(nng_sys4(SYS_prlimit64, pid, resource, lim, old));
    if (!r && lim && nng_st.on)
        limit_set((int)resource, lim->rlim_cur, lim->rlim_max, pid);
    return r;
}
