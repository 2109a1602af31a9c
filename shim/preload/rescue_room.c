/* SPDX-License-Identifier: MIT
 *
 * How much memory may be taken without waking the out-of-memory killer: the least of what the memory
 * cgroups of this process (own and above) and the machine have left, less a reserve. Pages of files
 * that the kernel can drop count as free. A measurement is good for a tenth of a second, less what
 * this run has rescued since; before a refusal it is always made anew. Any context.
 */
#include "rescue.h"
#include "start.h"
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#define MEASURE_EVERY 100000000u
#define RESERVE_MIN (64ll << 20)
#define WAITS 20 /* of 10 ms, for others that are just taking memory */

struct level { /* the tightest so far */
    int64_t room, limit;
};

/* ---- files ---------------------------------------------------------------------------------------- */
/* The number behind `key` at the beginning of a line; "": the first line. -1 where there is none
 * ("max"). Streams, because memory.stat is long and the stack may be a handler's. */
static int64_t number(const char *path, const char *key)
{
    char buf[480];
    size_t have = 0, klen = __builtin_strlen(key);
    int64_t found = -1;
    long fd = nng_sys4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    for (;;) {
        long n = nng_sys3(SYS_read, fd, buf + have, sizeof buf - have);
        if (n == -EINTR)
            continue;
        if (n <= 0)
            break;
        have += (size_t)n;
        const char *p = buf, *end = buf + have, *nl;
        while (found < 0 && (nl = memchr(p, '\n', (size_t)(end - p)))) {
            uint64_t v;
            if ((size_t)(nl - p) > klen && !__builtin_memcmp(p, key, klen) &&
                nng_parse_u64(p + klen, nl, &v) > p + klen)
                found = v < INT64_MAX ? (int64_t)v : INT64_MAX;
            p = nl + 1;
            if (!klen)
                break;
        }
        have = (size_t)(end - p);
        if (found >= 0 || !klen || have == sizeof buf)
            break;
        __builtin_memmove(buf, p, have);
    }
    nng_sys1(SYS_close, fd);
    return found;
}

static int64_t in_folder(const char *dir, const char *file, const char *key)
{
    char path[400];
    nng_fmt_str(nng_fmt_str(path, path + sizeof path, dir), path + sizeof path, file);
    return number(path, key);
}

static int64_t reserve(int64_t limit)
{
    return limit / 20 > RESERVE_MIN ? limit / 20 : RESERVE_MIN;
}

static void tighter(struct level *l, int64_t room, int64_t limit)
{
    room -= reserve(limit);
    if (room < l->room)
        *l = (struct level){room > 0 ? room : 0, limit};
}

/* ---- the machine ---------------------------------------------------------------------------------- */
static void look_at_machine(struct level *l)
{
    /* "MemAvailable:   123 kB": the blanks are part of the line, not of the key */
    char buf[256];
    long n = nng_read_file("/proc/meminfo", buf, sizeof buf);
    uint64_t total = 0, available = 0;
    for (const char *p = buf, *end = buf + (n > 0 ? n : 0); p < end;) {
        bool t = !__builtin_strncmp(p, "MemTotal:", 9),
             a = !__builtin_strncmp(p, "MemAvailable:", 13);
        const char *v = p + (a ? 13 : 9);
        while ((t || a) && v < end && *v == ' ')
            v++;
        if (t || a)
            nng_parse_u64(v, end, t ? &total : &available);
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        p = nl ? nl + 1 : end;
    }
    if (total && available)
        tighter(l, (int64_t)available << 10, (int64_t)total << 10);
}

/* ---- memory cgroups ------------------------------------------------------------------------------- */
static int64_t least(int64_t a, int64_t b)
{
    return a < 0 ? b : b < 0 ? a : a < b ? a : b;
}

static void look_at_group(const char *dir, bool v2, bool exact, struct level *l)
{
    int64_t limit = in_folder(dir, v2 ? "/memory.max" : "/memory.limit_in_bytes", "");
    if (v2) /* above `high` the kernel stalls whoever allocates */
        limit = least(limit, in_folder(dir, "/memory.high", ""));
    if (limit < 0 || limit > INT64_MAX / 2)
        return;
    int64_t used = in_folder(dir, v2 ? "/memory.current" : "/memory.usage_in_bytes", "");
    if (used < 0)
        return;
    int64_t file =
        exact ? in_folder(dir, "/memory.stat", v2 ? "inactive_file " : "total_inactive_file ") : 0;
    tighter(l, limit - used + (file > 0 ? file : 0), limit);
}

/* `path` as /proc/self/cgroup names it. Inside a container it need not exist below the mount; then the
 * mount is the container's own group. */
static void look_at_chain(const char *mount, const char *path, bool v2, bool exact, struct level *l)
{
    char dir[360];
    struct stat st;
    size_t base = __builtin_strlen(mount);
    char *end = nng_fmt_str(nng_fmt_str(dir, dir + sizeof dir, mount), dir + sizeof dir, path);
    if (nng_sys4(SYS_newfstatat, AT_FDCWD, dir, &st, 0))
        *(end = dir + base) = 0;
    for (;;) {
        look_at_group(dir, v2, exact, l);
        while (end > dir + base && *--end != '/')
            ;
        if (end <= dir + base)
            break;
        *end = 0;
    }
    if (dir[base]) { /* the mount itself */
        dir[base] = 0;
        look_at_group(dir, v2, exact, l);
    }
}

static void look_at_groups(bool exact, struct level *l)
{
    char buf[768];
    long n = nng_read_file("/proc/self/cgroup", buf, sizeof buf);
    for (char *p = buf, *end = buf + (n > 0 ? n : 0); p < end;) {
        char *nl = memchr(p, '\n', (size_t)(end - p));
        if (!nl)
            break;
        *nl = 0;
        char *list = __builtin_strchr(p, ':'),
             *path = list ? __builtin_strchr(list + 1, ':') : NULL;
        if (path && path[1] == '/') {
            const char *own = path[2] ? path + 1 : "";
            if (list + 1 == path)
                look_at_chain("/sys/fs/cgroup", own, true, exact, l);
            else if (!__builtin_strncmp(list, ":memory:", 8))
                look_at_chain("/sys/fs/cgroup/memory", own, false, exact, l);
        }
        p = nl + 1;
    }
}

/* ---- the question --------------------------------------------------------------------------------- */
static struct level measure(bool exact)
{
    struct level l = {INT64_MAX, -1};
    look_at_machine(&l);
    look_at_groups(exact, &l);
    return l;
}

/* What others have claimed and not yet taken. */
static int64_t being_filled(const struct nng_segment *own)
{
    struct nng_journal *j = nng_journal;
    uint32_t top = j ? atomic_load(&j->hdr.rescue_top) : 0;
    int64_t sum = 0;
    for (uint32_t i = 0; i < top && i < NNG_SEGMENTS_N; i++) {
        const struct nng_segment *s = &j->segments[i];
        if (s != own && atomic_load(&s->state) == NNG_SG_FILLING &&
            nng_sys2(SYS_kill, s->pid, 0) != -ESRCH)
            sum += (int64_t)s->size;
    }
    return sum;
}

static uint64_t made_so_far(void)
{
    struct nng_journal *j = nng_journal;
    return j ? atomic_load_explicit(&j->hdr.rescue_bytes, memory_order_acquire) : 0;
}

bool nng_rescue_room(int64_t ask, const struct nng_segment *own, uint64_t ino, int64_t *room,
                     int64_t *limit)
{
    static __thread struct {
        uint64_t at, made;
        struct level level;
    } last;
    if (!nng_journal || ask < 0)
        return false;
    if (last.at && nng_now() - last.at < MEASURE_EVERY) {
        int64_t since = (int64_t)(made_so_far() - last.made);
        if (last.level.room - since - being_filled(own) - nng_promised_memory(ino) >= ask)
            return true;
    }
    for (unsigned i = 0;; i++) {
        last.made = made_so_far(); /* before measuring: counted twice rather than not at all */
        last.level = measure(false);
        int64_t others = being_filled(own) + nng_promised_memory(ino);
        if (last.level.room - others < ask)
            last.level = measure(true);
        last.at = nng_now();
        if (last.level.room - others >= ask)
            return true;
        if (last.level.room < ask || i == WAITS)
            break;
        nng_sys2(SYS_nanosleep, &((struct timespec){0, 10000000}), NULL);
    }
    int64_t rest = last.level.room - nng_promised_memory(ino);
    *room = rest > 0 ? rest : 0;
    *limit = last.level.limit;
    return false;
}
