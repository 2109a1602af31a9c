# SPDX-License-Identifier: MIT
"""Uses shared memory in every way that trainers do and prints what it saw of it: with room, and rescued
without, the output must be the same.

    rescue_victim.py WHAT [ARG...]

Names, inode and device numbers are never printed. Standard library only, but for `train`.
"""
import array
import ctypes
import errno
import hashlib
import mmap
import multiprocessing as mp
import os
import resource
import socket
import stat
import sys
import threading
import time

MB = 1 << 20
libc = ctypes.CDLL(None, use_errno=True)


def shm_open(name, flags, mode=0o600):
    fd = libc.shm_open(name.encode(), flags, mode)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def shm_unlink(name):
    if libc.shm_unlink(name.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def error_of(call, *args):
    try:
        return f"returned {call(*args) is not None}"
    except OSError as error:
        return errno.errorcode[error.errno]


def pattern(n, seed=1):
    return hashlib.sha256(bytes([seed])).digest() * (n // 32)


def seen(data):
    return hashlib.sha256(data).hexdigest()[:12]


def fds():
    return len(os.listdir("/proc/self/fd"))


# ---- a segment as torch makes it -------------------------------------------------------------------
def describe(fd, label):
    st = os.fstat(fd)
    flags = ctypes.c_int(libc.fcntl(fd, 1)).value
    print(label, oct(st.st_mode), st.st_size, st.st_uid == os.geteuid(), "cloexec", flags & 1,
          "pos", os.lseek(fd, 0, os.SEEK_CUR))


def send(sock, fd):
    sock.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])


def receive(sock):
    _, control, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(4))
    return array.array("i", control[0][2][:4])[0]


def views(how="fallocate"):
    """All that can be asked about one segment."""
    size = 8 * MB
    name = f"/torch_{os.getpid()}_1_1"
    before = fds()
    fd = shm_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
    os.ftruncate(fd, size)
    if how == "fallocate":
        print("posix_fallocate", os.posix_fallocate(fd, 0, size))
    describe(fd, "made")
    print("exclusive", error_of(shm_open, name, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    st = os.stat(f"/dev/shm{name}")
    print("by name", oct(st.st_mode), st.st_size, os.path.samestat(st, os.fstat(fd)))
    area = mmap.mmap(fd, size)
    area[:] = pattern(size)
    with open(f"/dev/fd/{fd}", "rb") as f:
        print("/dev/fd", seen(f.read()))
    other = os.dup(fd)
    describe(other, "dup")
    with open(f"/dev/shm{name}", "rb") as f:
        print("opened by name", seen(f.read()))
    again = shm_open(name, os.O_RDWR)
    describe(again, "again")
    with mmap.mmap(again, size) as second:
        second[5 * MB:5 * MB + 4] = b"abcd"
    print("shared", area[5 * MB:5 * MB + 4])
    read_only = shm_open(name, os.O_RDONLY)
    print("read only", error_of(os.write, read_only, b"x"), seen(os.pread(read_only, 4096, 0)))
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        send(theirs, shm_open(name, os.O_RDWR))
        os._exit(0)
    os.waitpid(child, 0)
    passed = receive(ours)
    print("passed", seen(os.pread(passed, size, 0)))
    os.ftruncate(fd, 2 * size)
    print("grown", os.fstat(fd).st_size, os.stat(f"/dev/shm{name}").st_size, os.pread(fd, 4, size))
    os.pwrite(fd, b"tail", 2 * size - 4)
    os.ftruncate(fd, size)
    print("cut", os.fstat(other).st_size, os.stat(f"/dev/shm{name}").st_size)
    os.chmod(f"/dev/shm{name}", 0o600)
    shm_unlink(name)
    print("unlinked", error_of(shm_open, name, os.O_RDWR), error_of(shm_unlink, name))
    print("lives on", seen(area[:]), seen(os.pread(other, size, 0)))
    area.close()
    for each in (fd, other, again, read_only, passed):
        os.close(each)
    ours.close()
    theirs.close()
    print("descriptors left", fds() - before, "names", os.listdir("/dev/shm") == OTHERS)


def reused():
    """The same name again and again, truncated by O_TRUNC, replaced after an unlink."""
    name = "/psm_again"
    for turn in range(3):
        fd = shm_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.ftruncate(fd, 6 * MB)
        os.posix_fallocate(fd, 0, 6 * MB)
        os.pwrite(fd, pattern(4096, turn), 5 * MB)
        other = shm_open(name, os.O_RDWR)
        print(turn, seen(os.pread(other, 4096, 5 * MB)))
        cut = shm_open(name, os.O_RDWR | os.O_TRUNC)
        print("cut", os.fstat(cut).st_size, os.fstat(fd).st_size)
        shm_unlink(name)
        for each in (fd, other, cut):
            os.close(each)
    small = shm_open(name, os.O_RDWR | os.O_CREAT)
    print("fresh", os.fstat(small).st_size)
    os.close(small)
    shm_unlink(name)


def written():
    """A file that grows by write, as pickles and joblib's do."""
    path = "/dev/shm/joblib_test.pkl"
    total = hashlib.sha256()
    with open(path, "wb") as f:
        for turn in range(24):
            part = pattern(256 << 10, turn)
            total.update(part)
            f.write(part)
        print("position", f.tell())
    with open(path, "rb") as f:
        print(seen(f.read()), total.hexdigest()[:12], os.stat(path).st_size >= 0)
    child = os.fork()
    if child == 0:
        with open(path, "rb") as f:
            print("child", seen(f.read()), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    fd = os.open("/dev/shm", os.O_RDONLY)
    os.unlink("joblib_test.pkl", dir_fd=fd)
    os.close(fd)
    print("gone", error_of(os.open, path, os.O_RDONLY))


def shared_file(how):
    """Somebody else has it too when it runs out of room: it must not be taken from under them."""
    path = "/dev/shm/joblib_shared.pkl"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.write(fd, pattern(256 << 10))
    ready, go = os.pipe(), os.pipe()
    if how == "dup":
        other = os.dup(fd)
    elif how == "open":
        other = os.open(path, os.O_RDONLY)
    elif how == "mmap":
        other = mmap.mmap(fd, 256 << 10)
    child = os.fork() if how in ("fork", "fork_mmap") else None
    if child == 0:
        area = mmap.mmap(fd, 256 << 10)
        if how == "fork_mmap":
            os.close(fd)
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        print("child still sees", seen(area[:]), flush=True)
        os._exit(0)
    if child:
        os.read(ready[0], 1)
    try:
        for turn in range(24):
            os.write(fd, pattern(256 << 10, turn))
        print("written")
    except OSError as error:
        print(errno.errorcode[error.errno])
    sys.stdout.flush()
    os.write(go[1], b"x")
    if child:
        os.waitpid(child, 0)
    elif how == "mmap":
        print("the mapping still shows", seen(other[:]))
    else:
        print("the other still shows", seen(os.pread(other, 256 << 10, 0)))
    os.unlink(path)


# ---- multiprocessing -------------------------------------------------------------------------------
def attach(name, back):
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(name=name)
    print("worker sees", seen(bytes(block.buf)), flush=True)
    block.buf[4 * MB:4 * MB + 4] = b"done"
    block.close()
    mine = shared_memory.SharedMemory(create=True, size=5 * MB)
    mine.buf[:] = pattern(5 * MB, 9)
    back.put(mine.name)
    back.get_nowait  # the parent attaches after this worker's end
    name = mine.name
    mine.close()
    try:  # or the tracker takes it away with this worker
        from multiprocessing import resource_tracker
        resource_tracker.unregister("/" + name.lstrip("/"), "shared_memory")
    except Exception:
        pass


def shared_memory(method):
    from multiprocessing import shared_memory as module
    context = mp.get_context(method)
    block = module.SharedMemory(create=True, size=8 * MB)
    block.buf[:] = pattern(8 * MB)
    back = context.SimpleQueue()
    back_names = context.Queue()
    worker = context.Process(target=attach, args=(block.name, back_names))
    worker.start()
    name = back_names.get(timeout=60)
    worker.join(60)
    print("exit", worker.exitcode, bytes(block.buf[4 * MB:4 * MB + 4]))
    other = module.SharedMemory(name=name)
    print("of a worker that ended", seen(bytes(other.buf)))
    for each in (block, other):
        each.close()
        each.unlink()
    back_names.close()
    back_names.join_thread()
    back.close()


def add(numbers, lock, total):
    for _ in range(200):
        with lock:
            total.value += 1
    with numbers.get_lock():
        for i in range(0, len(numbers), 4096):
            numbers[i] += 1.0


def arrays(method):
    context = mp.get_context(method)
    numbers = context.Array("d", 3 * MB // 8)
    raw = context.RawArray("b", 4 * MB)
    lock, total = context.Lock(), context.Value("i", 0)
    raw[0], raw[4 * MB - 1] = 1, 2
    workers = [context.Process(target=add, args=(numbers, lock, total)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    print([w.exitcode for w in workers], total.value, sum(numbers), sum(raw[:8]), raw[4 * MB - 1])


def take(semaphore, event, queue, barrier):
    with semaphore:
        event.wait(30)
        barrier.wait(30)
        queue.put(os.getpid() > 0)


def semaphores(method):
    context = mp.get_context(method)
    semaphore, event, queue = context.Semaphore(3), context.Event(), context.Queue()
    barrier, bounded, lock = context.Barrier(3), context.BoundedSemaphore(1), context.RLock()
    workers = [context.Process(target=take, args=(semaphore, event, queue, barrier)) for _ in range(3)]
    for worker in workers:
        worker.start()
    event.set()
    print([queue.get(timeout=60) for _ in workers])
    for worker in workers:
        worker.join(60)
    with lock, lock:
        print([w.exitcode for w in workers], semaphore.get_value())
    bounded.acquire()
    bounded.release()
    try:
        bounded.release()
    except ValueError as error:
        print(error)


def named_semaphore():
    """POSIX semaphores by name, as C sees them."""
    libc.sem_open.restype = ctypes.c_void_p
    for call in (libc.sem_close, libc.sem_post, libc.sem_trywait):
        call.argtypes = [ctypes.c_void_p]

    def opened(name, flags, value=0):
        ctypes.set_errno(0)
        s = libc.sem_open(name, flags, 0o600, value)
        return s if s else errno.errorcode[ctypes.get_errno()]
    name = b"/rescued"
    a = opened(name, os.O_CREAT | os.O_EXCL, 2)
    print(isinstance(a, int), opened(name, os.O_CREAT | os.O_EXCL, 2))
    b, c = opened(name, 0), opened(name, os.O_CREAT, 7)
    print([libc.sem_trywait(s) for s in (a, b, c)], libc.sem_post(b), libc.sem_trywait(c))
    print([libc.sem_close(s) for s in (a, b, c)])
    print(libc.sem_unlink(name), libc.sem_unlink(name), opened(name, 0))


# ---- many ------------------------------------------------------------------------------------------
def rss():
    with open("/proc/self/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * resource.getpagesize()


def many(count, keep_name="0"):
    """Segments one after the other; nothing may be left of them."""
    def one(n):
        name = f"/torch_{os.getpid()}_7_{n}"
        fd = shm_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.posix_fallocate(fd, 0, 2 * MB)
        if keep_name != "1":
            shm_unlink(name)
        area = mmap.mmap(fd, 2 * MB)
        area[0], area[-1] = 1, 2
        area.close()
        os.close(fd)
        if keep_name == "1":
            fd = shm_open(name, os.O_RDWR)
            assert os.pread(fd, 1, 2 * MB - 1) == b"\2"
            os.close(fd)
            shm_unlink(name)
    for n in range(50):
        one(n)
    before, memory = fds(), rss()
    for n in range(50, int(count)):
        one(n)
    print("descriptors", fds() - before, "memory", abs(rss() - memory) < 2 * MB, "names",
          os.listdir("/dev/shm") == OTHERS)
    time.sleep(1.5)  # a name that another removed is let go within a second
    for pid in os.listdir("/proc"):
        if pid.isdigit() and comm(pid) == "nnguard" and mine(pid):
            held = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            print("MONITOR", len(held), sum("memfd" in name for name in held))


def comm(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii") as f:
            return f.read().strip()
    except OSError:
        return ""


def mine(pid):
    try:
        with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as f:
            return os.environ.get("NNGUARD_RUN", "//") in f.read()
    except OSError:
        return False


def race(workers, rounds, size, threads="1"):
    """All at the same time: size, then touch, as torch did up to 2.9; many want the same room."""
    size = int(size)

    def loop(seed):
        for turn in range(int(rounds)):
            name = f"/torch_{os.getpid()}_{seed}_{turn}"
            fd = shm_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            os.ftruncate(fd, size)
            area = mmap.mmap(fd, size)
            shm_unlink(name)
            os.close(fd)
            for at in range(0, size, 4096):
                area[at] = turn & 0x7f
            area.close()

    def work(seed):
        group = [threading.Thread(target=loop, args=(seed * 100 + n,)) for n in range(int(threads))]
        for t in group:
            t.start()
        for t in group:
            t.join()
    context = mp.get_context("fork")
    ps = [context.Process(target=work, args=(n,)) for n in range(int(workers))]
    for p in ps:
        p.start()
    for p in ps:
        p.join()
    print("STATUS", [p.exitcode for p in ps])


def tight(size, how):
    """One request; how it ends is printed."""
    fd = shm_open("/torch_1_1_1", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    shm_unlink("/torch_1_1_1")
    try:
        if how == "fallocate":
            os.posix_fallocate(fd, 0, int(size))
        else:
            os.ftruncate(fd, int(size))
        area = mmap.mmap(fd, int(size))
        for at in range(0, int(size), 4096):
            area[at] = 1
        print("STATUS filled")
    except OSError as error:
        print("STATUS", errno.errorcode[error.errno])


def leave(size):
    """Leaves a name behind."""
    fd = shm_open("/psm_left", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, int(size))
    print(os.listdir("/dev/shm"))


def limits():
    print("soft is hard", *[a == b for a, b in [resource.getrlimit(resource.RLIMIT_NOFILE)]])


# ---- a training ------------------------------------------------------------------------------------
def train(strategy, method, epochs="2", workers="3", mib="1"):
    """A small network, seeded; what comes out is a number that depends on every batch."""
    import torch
    import training
    torch.multiprocessing.set_sharing_strategy(strategy)
    print(training.train(method, int(epochs), int(workers), int(mib)))


def slow(seconds):
    time.sleep(float(seconds))


OTHERS = []
if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    OTHERS = os.listdir("/dev/shm")
    assert stat.S_ISDIR(os.stat("/dev/shm").st_mode)
    globals()[sys.argv[1]](*sys.argv[2:])
