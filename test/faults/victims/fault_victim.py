# SPDX-License-Identifier: MIT
"""A small trainer that dies as real ones do: its workers (or itself) meet one named fate.

    fault_victim.py [--api A] [--method M] [--workers N] [--bad N] [--linger S] FATE [ARG...]

A: process (polls its workers as batchgenerators does), pool, executor, loky, dataloader, self (no
worker: the trainer itself meets the fate). Lines that start with STATUS tell what the trainer saw
of its workers; a guarded and a bare run must print the same ones.
Runs on Python 3.6 to 3.14; needs the standard library only, but for loky and dataloader.
"""
import argparse
import ctypes
import mmap
import multiprocessing as mp
import os
import resource
import signal
import subprocess
import sys
import threading
import time


# ---- fates: each is what happens to the process that calls it ------------------------------------
def idle(seconds="3600"):
    time.sleep(float(seconds))


def busy(path, seconds="3600"):
    """Say who has the task, so that the test kills a worker that holds no lock of the queue."""
    with open(path + ".new", "w") as f:
        f.write(str(os.getpid()))
    os.rename(path + ".new", path)
    time.sleep(float(seconds))


def fine(value="1"):
    return int(value)


def segv_null():
    ctypes.string_at(0)


def segv_wild():
    ctypes.string_at(0x7000dead0000)


def segv_write_text():
    """A write to a read-only page."""
    area = mmap.mmap(-1, 4096, prot=mmap.PROT_READ)
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, ctypes.c_size_t(4096), 1, 0x22, -1, ctypes.c_long(0))
    ctypes.memset(address, 1, 1)
    return area


def in_library(path, function, *args):
    """Die inside a function of our own library, so that the stack can be checked."""
    library = ctypes.CDLL(path)
    getattr(library, function)(*[int(a) for a in args])


def in_thread(*fate):
    """The same in a thread that is not the main one."""
    thread = threading.Thread(target=meet, args=(fate,))
    thread.start()
    thread.join()


def abort():
    os.abort()


def python_overflow():
    """Runs out of C stack below Python: no recursion limit in the way."""
    library = ctypes.CDLL(None)
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    numbers = (ctypes.c_int * 2)(1, 2)
    sys.setrecursionlimit(1 << 28)

    def compare(_a, _b):
        library.qsort(numbers, 2, 4, again)
        return 0
    again = callback(compare)
    library.qsort(numbers, 2, 4, again)


def raise_signal(number):
    os.kill(os.getpid(), int(number))
    time.sleep(5)


def exception(text="something went wrong in the dataset"):
    raise ValueError(text)


def traceback_exit0(text="broken case"):
    """batchgenerators: the worker prints its traceback and ends with status 0."""
    import traceback
    try:
        raise ValueError(text)
    except ValueError:
        sys.stdout.flush()
        print("Exception in background worker %d:\n" % 1)
        traceback.print_exc()
        sys.stderr.flush()


def os_exit(code="3"):
    os._exit(int(code))


def sys_exit(code="3"):
    sys.exit(int(code))


def shared_memory(size="4194304"):
    """CPython's SharedMemory: ftruncate succeeds whatever the space, the touch does not."""
    from multiprocessing import shared_memory as shm
    block = shm.SharedMemory(create=True, size=int(size))
    block.unlink()
    for at in range(0, int(size), 4096):
        block.buf[at] = 1
    print("shared memory was enough", flush=True)


def fallocate_shm(size="4194304", times="3", name="torch_{pid}_7_{n}"):
    """torch from 2.10 on: posix_fallocate fails, a feeder thread prints and goes on."""
    for n in range(int(times)):
        path = "/dev/shm/" + name.format(pid=os.getpid(), n=n)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.unlink(path)
        try:
            os.posix_fallocate(fd, 0, int(size))
            print("fallocate was enough", flush=True)
        except OSError as error:
            print("RuntimeError: unable to allocate shared memory(shm) for file <%s>: %s (%d)"
                  % (os.path.basename(path), error.strerror, error.errno), file=sys.stderr, flush=True)
        os.close(fd)
        time.sleep(0.05)
    idle()


def probe_shm_once(size="4194304"):
    """Another program's single probe, which falls back elsewhere: no incident."""
    path = "/dev/shm/probe_%d" % os.getpid()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)
    try:
        os.posix_fallocate(fd, 0, int(size))
    except OSError:
        print("probe failed, using a file", flush=True)
    os.close(fd)


def semaphore():
    """sem_open on a full /dev/shm."""
    from _multiprocessing import SemLock
    for n in range(100000):
        SemLock(1, 1, 1, "/nngt-%d-%d" % (os.getpid(), n), False)


def touch_file(path, offset="0"):
    """Touch one byte of a mapped file."""
    with open(path, "r+b") as f:
        size = os.fstat(f.fileno()).st_size
        area = mmap.mmap(f.fileno(), size)
    return area[int(offset)]


def mapped_then_truncated(path, size="1048576", keep="4096"):
    """Map a file, have another process cut it short, touch beyond its new end."""
    with open(path, "wb") as f:
        f.write(b"d" * int(size))
    with open(path, "r+b") as f:
        area = mmap.mmap(f.fileno(), int(size))
        subprocess.check_call([sys.executable, "-S", "-c",
                               "import os,sys;os.truncate(sys.argv[1],int(sys.argv[2]))", path, keep])
        return area[int(size) - 1]


def mapped_then_truncated_closed(path, size="1048576", keep="4096", unlink="0"):
    """The same without an open descriptor, as numpy.memmap may leave it; perhaps unlinked too."""
    with open(path, "wb") as f:
        f.write(b"d" * int(size))
    f = open(path, "r+b")
    area = mmap.mmap(f.fileno(), int(size), prot=mmap.PROT_READ)
    f.close()
    os.truncate(path, int(keep))
    if unlink == "1":
        os.unlink(path)
    return area[int(size) - 1]


def sparse_mapped(path, size="67108864"):
    """Write through a mapping of a sparse file: the disk fills up under it."""
    with open(path, "w+b") as f:
        f.truncate(int(size))
        area = mmap.mmap(f.fileno(), int(size))
        for at in range(0, int(size), 4096):
            area[at] = 1
    print("the disk was large enough", flush=True)


def write_file(path, size="67108864"):
    """Write until the disk is full: an OSError that nobody handles."""
    with open(path, "wb", buffering=0) as f:
        for _ in range(int(size) // 65536):
            f.write(b"x" * 65536)


def handled_write(path, size="67108864"):
    """The same, handled."""
    try:
        write_file(path, size)
    except OSError as error:
        print("handled", error.errno, flush=True)
    os.unlink(path)


def read_file(path):
    with open(path, "rb", buffering=0) as f:
        while f.read(1 << 16):
            pass


def read_mapped(path):
    with open(path, "rb") as f:
        area = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
    total = 0
    for at in range(0, len(area), 4096):
        total += area[at]
    return total


def eat(megabytes="4096", step="4", pause="0"):
    """Take memory and touch it."""
    kept = []
    for _ in range(0, int(megabytes), int(step)):
        kept.append(b"x" * (int(step) << 20))
        if float(pause):
            time.sleep(float(pause))
    print("there was enough memory", flush=True)
    return kept


def many_files(count="100000"):
    kept = []
    for _ in range(int(count)):
        kept.append(open("/dev/null", "rb"))


def handled_many_files():
    kept = []
    try:
        while True:
            kept.append(open("/dev/null", "rb"))
    except OSError as error:
        for f in kept:
            f.close()
        print("handled", error.errno, flush=True)


def many_threads(count="5000"):
    stop = threading.Event()
    started = []
    try:
        for _ in range(int(count)):
            thread = threading.Thread(target=stop.wait)
            thread.daemon = True
            thread.start()
            started.append(thread)
    finally:
        stop.set()


def many_children(count="5000"):
    """os.fork until it fails; the failure is not handled."""
    children = []
    try:
        for _ in range(int(count)):
            pid = os.fork()
            if pid == 0:
                time.sleep(30)
                os._exit(0)
            children.append(pid)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def big_array(megabytes="4096"):
    return bytearray(int(megabytes) << 20)


def limit(name, soft, hard, *fate):
    """Set a resource limit in this process, then meet the next fate."""
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (int(soft), int(hard)))
    meet(fate)


def spin(seconds="60"):
    end = time.time() + float(seconds)
    while time.time() < end:
        pass


def big_file(path, size="1048576"):
    with open(path, "wb", buffering=0) as f:
        for _ in range(int(size) // 4096):
            f.write(b"x" * 4096)


def default_xfsz(*fate):
    """CPython ignores SIGXFSZ; a C library may bring the default back."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    meet(fate)


def repaired_fault():
    """A program's own handler that repairs the fault and goes on (as runtimes with guard pages do)."""
    library = ctypes.CDLL(os.environ["FAULT_LIBRARY"])
    print("repaired", library.fault_repaired(), flush=True)


def held_sigterm(path, function, *args):
    """Crash; the trainer sends SIGTERM meanwhile (see api process, --term-on-death)."""
    in_library(path, function, *args)


def kill_sibling(number="9"):
    """One worker kills another one of the same trainer."""
    with open(os.environ["FAULT_PIDS"]) as f:
        others = [int(line) for line in f.read().split() if int(line) != os.getpid()]
    os.kill(others[0], int(number))
    idle()


def close_stderr(*fate):
    os.close(2)
    meet(fate)


def faulthandler_on(*fate):
    import faulthandler
    faulthandler.enable()
    meet(fate)


def print_binary(*fate):
    """Rubbish and terminal escapes before death."""
    sys.stderr.write("\x1b[31mred\x1b[0m \x1b]0;title\x07 \u202eabc\r50%|####\rdone \x00\x07\n")
    sys.stderr.flush()
    os.write(2, b"\xff\xfe broken utf-8 \x9b31m\n")
    meet(fate)


def after(seconds, *fate):
    time.sleep(float(seconds))
    meet(fate)


def meet(words):
    return globals()[words[0]](*words[1:])


# ---- trainers ------------------------------------------------------------------------------------
def worker_main(index, bad, words, ready, rest):
    if ready is not None:
        ready.release()
    if index in bad:
        meet(words)
    elif rest:
        idle()


def status(process):
    print("STATUS worker %s exit %s" % (process.name.split("-")[-1], process.exitcode), flush=True)


def trainer_process(context, args):
    """Polls its workers as batchgenerators does, ends the others, fails."""
    ready = context.Semaphore(0) if args.ready else None
    workers = [context.Process(target=worker_main, name="worker-%d" % n, daemon=True,
                               args=(n, args.bad, args.fate, ready, not args.ignore))
               for n in range(args.workers)]
    for worker in workers:
        worker.start()
    if args.pids:
        with open(args.pids + ".new", "w") as f:
            f.write("\n".join(str(worker.pid) for worker in workers))
        os.rename(args.pids + ".new", args.pids)
    if ready:
        for _ in workers:
            ready.acquire()
        print("READY", flush=True)
    end = time.time() + args.patience
    while time.time() < end:
        dead = [worker for worker in workers if not worker.is_alive()]
        if dead and not args.ignore:
            break
        if len(dead) == len(workers):
            break
        time.sleep(0.02)
    else:
        dead = []
        print("STATUS nobody died", flush=True)
    for worker in dead:
        status(worker)
    if args.linger:
        time.sleep(args.linger)
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    for worker in workers:
        worker.join()
    if dead and not args.ignore:
        raise RuntimeError("One or more background workers are no longer alive. Exiting.")


def pool_task(words):
    return meet(words)


def trainer_pool(context, args):
    pool = context.Pool(args.workers)
    asked = pool.apply_async(pool_task, (args.fate,))
    try:
        print("RESULT", asked.get(timeout=args.patience), flush=True)
    except mp.TimeoutError:
        print("STATUS the pool never answered", flush=True)
        pool.terminate()
        sys.exit(1)
    pool.close()
    pool.join()


def trainer_executor(context, args):
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(args.workers, mp_context=context) as executor:
        print("RESULT", executor.submit(pool_task, args.fate).result(timeout=args.patience), flush=True)


def trainer_loky(_context, args):
    from loky import get_reusable_executor
    executor = get_reusable_executor(max_workers=args.workers)
    print("RESULT", executor.submit(pool_task, args.fate).result(timeout=args.patience), flush=True)
    executor.shutdown()


class FateSet:
    """A data set whose item number 3 is a fate."""

    def __init__(self, words, size=8):
        self.words = words
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        import torch
        if index == 3:
            value = meet(self.words)
            if value is not None and not isinstance(value, int):
                return value
        return torch.zeros(4)


def big_item(megabytes="8"):
    import torch
    return torch.ones(int(megabytes) << 18)


class BigSet(FateSet):
    def __getitem__(self, index):
        return big_item(*self.words[1:])


def trainer_dataloader(context, args):
    import torch
    import torch.utils.data
    torch.set_num_threads(1)
    data = (BigSet if args.fate[0] == "big_item" else FateSet)(args.fate)
    loader = torch.utils.data.DataLoader(data, batch_size=1, num_workers=args.workers,
                                         multiprocessing_context=context, timeout=args.patience)
    count = 0
    for _ in loader:
        count += 1
    print("RESULT", count, flush=True)


def trainer_self(_context, args):
    value = meet(args.fate)
    if value is not None:
        print("RESULT", type(value).__name__, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--api", default="process")
    parser.add_argument("--method", default="fork")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bad", type=lambda s: [int(n) for n in s.split(",") if n], default=[0])
    parser.add_argument("--linger", type=float, default=0, help="live on after the death, seconds")
    parser.add_argument("--patience", type=float, default=20)
    parser.add_argument("--pids", default="", help="a file for the workers' pids")
    parser.add_argument("--ready", action="store_true")
    parser.add_argument("--ignore", action="store_true", help="every end is welcome; status 0")
    parser.add_argument("fate", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if args.pids:
        os.environ["FAULT_PIDS"] = args.pids
    context = mp.get_context(args.method) if args.api not in ("self", "loky") else None
    globals()["trainer_" + args.api](context, args)


if __name__ == "__main__":
    main()
