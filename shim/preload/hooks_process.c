/* SPDX-License-Identifier: MIT
 *
 * Births: fork, posix_spawn, the exec family. vfork is not wrapped (a C wrapper returns twice into a
 * frame that is gone); its children show up by their constructor, or by EXEC here, which may
 * therefore run in the parent's memory and touches nothing but the journal.
 */
#include "rescue.h"
#include "start.h"
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- fork --------------------------------------------------------------------------------------- */
HOOK(pid_t, fork, (void))
{
    nng_rescue_may_spread();
    pid_t pid = REAL(fork)();
    nng_rescue_may_spread(); /* what another thread opened in the meantime */
    if (!nng_st.on)
        return pid;
    int e = errno;
    if (pid == 0) {
        nng_start_after_fork(); /* done already where libc ran our atfork handler */
    } else {
        nng_launch_tidy();
        nng_put(&(struct nng_put){
            .type = NNG_R_FORK, .call = NNG_C_FORK, .err = pid < 0 ? e : 0, .a = pid});
        if (pid < 0)
            nng_fail(NNG_C_FORK, e, -1, NULL, -1);
    }
    errno = e;
    return pid;
}

/* ---- posix_spawn -------------------------------------------------------------------------------- */
static int spawned(int err, const pid_t *pid, const char *path)
{
    nng_rescue_may_spread();
    if (!nng_st.on)
        return err;
    int e = errno;
    nng_put(&(struct nng_put){.type = NNG_R_FORK,
                              .call = NNG_C_POSIX_SPAWN,
                              .err = err,
                              .a = err ? -1 : *pid,
                              .text = path});
    if (err)
        nng_fail(NNG_C_POSIX_SPAWN, err, -1, path, -1);
    errno = e;
    return err;
}

HOOK(int, posix_spawn,
     (pid_t *__restrict pid, const char *__restrict path, const posix_spawn_file_actions_t *fa,
      const posix_spawnattr_t *__restrict at, char *const argv[__restrict],
      char *const envp[__restrict]))
{
    pid_t own = -1;
    nng_rescue_may_spread();
    int err = REAL(posix_spawn)(pid ? pid : &own, path, fa, at, argv, envp);
    return spawned(err, pid ? pid : &own, path);
}

HOOK(int, posix_spawnp,
     (pid_t *__restrict pid, const char *__restrict file, const posix_spawn_file_actions_t *fa,
      const posix_spawnattr_t *__restrict at, char *const argv[__restrict],
      char *const envp[__restrict]))
{
    pid_t own = -1;
    nng_rescue_may_spread();
    int err = REAL(posix_spawnp)(pid ? pid : &own, file, fa, at, argv, envp);
    return spawned(err, pid ? pid : &own, file);
}

/* ---- exec --------------------------------------------------------------------------------------- */
/* CPython tries every folder of PATH by execve: what cannot be executed is not worth a record. */
static void about_to_exec(const char *path, bool searched)
{
    nng_rescue_may_spread(); /* in a vfork child this is the parent's counter, and meant so */
    if (!nng_st.on || !path)
        return;
    if (!searched && nng_sys3(SYS_faccessat, AT_FDCWD, path, X_OK))
        return;
    int e = errno;
    nng_put(&(struct nng_put){.type = NNG_R_EXEC,
                              .call = NNG_C_EXEC,
                              .flags = nng_is_self() ? 0 : NNG_RF_VFORK,
                              .d = nng_sys0(SYS_getppid),
                              .text = path});
    errno = e;
}

HOOK(int, execve, (const char *path, char *const argv[], char *const envp[]))
{
    about_to_exec(path, false);
    return NEXT(execve) ? NEXT(execve)(path, argv, envp)
                        : (int)nng_ret(nng_sys3(SYS_execve, path, argv, envp));
}

HOOK(int, execv, (const char *path, char *const argv[]))
{
    about_to_exec(path, false);
    return NEXT(execv) ? NEXT(execv)(path, argv)
                       : (int)nng_ret(nng_sys3(SYS_execve, path, argv, environ));
}

HOOK(int, execvp, (const char *file, char *const argv[]))
{
    about_to_exec(file, true);
    return REAL(execvp)(file, argv);
}

HOOK(int, execvpe, (const char *file, char *const argv[], char *const envp[]))
{
    about_to_exec(file, true);
    return REAL(execvpe)(file, argv, envp);
}

HOOK(int, fexecve, (int fd, char *const argv[], char *const envp[]))
{
    char path[40];
    char *p = nng_fmt_str(path, path + sizeof path, "/proc/self/fd/");
    nng_fmt_u64(p, path + sizeof path, (uint64_t)(unsigned)fd);
    about_to_exec(path, true);
    return REAL(fexecve)(fd, argv, envp);
}
