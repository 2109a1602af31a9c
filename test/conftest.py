# SPDX-License-Identifier: MIT
"""What fault and trainer tests share: running a command bare and guarded, and places to break it in.

The tests know nnguard only by its interface: LD_PRELOAD, NNGUARD_* settings, lines on stderr that
start with "nnguard: ", report.json, exit statuses. Everything a fixture makes (mounts, cgroups,
folders, processes) it removes again, also when the test fails. A missing right or tool is a skip that
says what is missing.
"""
import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

ROOT = os.environ.get("NNG_ROOT") or os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.abspath(os.environ.get("NNG_BUILD") or os.environ.get("NNGUARD_BUILD")
                        or os.path.join(ROOT, "build"))
LIB = os.path.join(BUILD, "libnnguard.so")
BIN = os.path.join(BUILD, "nnguard")
HERE = os.path.join(ROOT, "test", "faults")
VICTIM = os.path.join(HERE, "victims", "fault_victim.py")
SYSTEM_PYTHON = "/usr/bin/python3"
IS_ROOT = os.geteuid() == 0
PREFIX = "nnguard: "
BLOCK_MAX = 4096


# ---- one run of a command ------------------------------------------------------------------------
class Result:
    """What a command did, seen from outside: status as subprocess gives it, text, reports."""

    def __init__(self):
        self.cmd = []
        self.rc = None
        self.pid = None
        self.out = ""
        self.err = ""
        self.seconds = 0.0
        self.timed_out = False
        self.stamps = []  # (seconds since start, chunk of stderr)
        self.dir = None  # NNGUARD_DIR of a guarded run

    # -- stderr
    @property
    def lines(self):
        """The lines of ours, without the prefix."""
        return [line[len(PREFIX):] for line in self.err.split("\n") if line.startswith(PREFIX)]

    @property
    def foreign_err(self):
        return "".join(line for line in self.err.splitlines(True) if not line.startswith(PREFIX))

    def said_at(self):
        """Seconds after the start of our first word, or None."""
        for when, chunk in self.stamps:
            if PREFIX.encode() in chunk:
                return when
        return None

    def statuses(self):
        """What the victim itself saw of its workers: the lines it prints for this purpose."""
        return sorted(line for line in self.out.splitlines() if line.startswith("STATUS "))

    # -- files
    @property
    def runs(self):
        """The folders of runs in NNGUARD_DIR."""
        if not self.dir or not os.path.isdir(self.dir):
            return []
        return sorted(os.path.join(self.dir, name) for name in os.listdir(self.dir)
                      if name != "latest" and os.path.isdir(os.path.join(self.dir, name)))

    @property
    def reports(self):
        found = []
        for run in self.runs:
            path = os.path.join(run, "report.json")
            if os.path.exists(path):
                with open(path, encoding="utf-8") as f:
                    found.append(json.load(f))
        return found

    @property
    def report(self):
        reports = self.reports
        assert len(reports) == 1, f"{len(reports)} reports in {self.dir}: {self.runs}\n{self}"
        return reports[0]

    @property
    def incidents(self):
        return [incident for report in self.reports for incident in report["incidents"]]

    def __str__(self):
        def tail(text):
            return text if len(text) < 6000 else text[:2500] + "\n[...]\n" + text[-3500:]
        brief = [(i["kind"], i["cause"], i["confidence"], i["count"], i["process"]["role"],
                  i["process"]["pid"], i["exit"]) for i in self._incidents_or_none()]
        return (f"$ {' '.join(self.cmd)}\nrc={self.rc} after {self.seconds:.1f}s"
                f"{' TIMED OUT' if self.timed_out else ''}\n-- stdout\n{tail(self.out)}"
                f"-- stderr\n{tail(self.err)}-- incidents {brief}")

    def _incidents_or_none(self):
        try:
            return self.incidents
        except (OSError, ValueError, KeyError):
            return []


def _pump(stream, result, start, sink, stamped):
    with contextlib.suppress(OSError, ValueError):
        while True:
            chunk = os.read(stream.fileno(), 65536)
            if not chunk:
                return
            sink.append(chunk)
            if stamped:
                result.stamps.append((time.monotonic() - start, chunk))


def clean_env(extra=None):
    env = {name: value for name, value in os.environ.items()
           if not name.startswith(("NNGUARD", "NNG_", "LD_", "PYTEST")) and
           name not in ("PYTHONFAULTHANDLER", "LANG", "LC_ALL", "LC_MESSAGES", "LANGUAGE")}
    env["OMP_WAIT_POLICY"] = "PASSIVE"
    for name, value in (extra or {}).items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = str(value)
    return env


def execute(cmd, env=None, timeout=40, cwd=None, during=None, stdin=None, preexec=None, pass_fds=(),
            linger=3):
    """Run cmd with pipes until it ended *and* everyone let go of stderr (as `| tee` would wait), or
    `linger` seconds after its end: workers of a trainer that was killed may stay for ever.

    during(process, result) runs in this thread meanwhile. Past the timeout the whole session of the
    command is killed and timed_out is set.
    """
    result = Result()
    result.cmd = [str(part) for part in cmd]
    start = time.monotonic()
    process = subprocess.Popen(result.cmd, stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=env if env is not None else clean_env(),
                               cwd=cwd, start_new_session=True, preexec_fn=preexec,
                               pass_fds=pass_fds)
    result.pid = process.pid
    out, err = [], []
    pumps = [threading.Thread(target=_pump, args=(process.stdout, result, start, out, False)),
             threading.Thread(target=_pump, args=(process.stderr, result, start, err, True))]
    for pump in pumps:
        pump.daemon = True
        pump.start()
    result.peek = lambda: b"".join(err).decode("utf-8", "replace")
    result.peek_out = lambda: b"".join(out).decode("utf-8", "replace")
    try:
        if during:
            during(process, result)
        process.wait(timeout=max(0.1, timeout - (time.monotonic() - start)))
    except subprocess.TimeoutExpired:
        result.timed_out = True
    finally:
        if process.poll() is None:
            _kill_session(process.pid)
            process.wait()
        result.ended = time.monotonic() - start
        for pump in pumps:
            pump.join(timeout=max(0.05, result.ended + linger - (time.monotonic() - start)))
        result.held = any(pump.is_alive() for pump in pumps)
        _kill_session(process.pid)
        for pump in pumps:
            pump.join(timeout=2)
        result.seconds = time.monotonic() - start
    process.stdout.close()
    process.stderr.close()
    result.rc = process.returncode
    result.out = b"".join(out).decode("utf-8", "replace")
    result.err = b"".join(err).decode("utf-8", "replace")
    return result


def _kill_session(leader):
    """SIGKILL everything in the session that `leader` began: only what this test started."""
    for pid in _pids():
        try:
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def _pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def leftovers(directory):
    """Processes that still have to do with a guarded run: pid, command line."""
    found = []
    for pid in _pids():
        if pid == os.getpid():
            continue
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                mine = f"NNGUARD_DIR={directory}\0".encode() in f.read()
            with open(f"/proc/{pid}/maps", "rb") as f:
                mine = mine or directory.encode() + b"/" in f.read()
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                line = f.read().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if mine or directory + "/" in line:
            found.append((pid, line))
    return found


# ---- wrappers: where a command runs --------------------------------------------------------------
def in_shm(size, cmd):
    """A private /dev/shm of that size (as mount's size=) for cmd; the pid stays cmd's own."""
    return ["unshare", "-m", "sh", "-c",
            'mount -t tmpfs -o "size=$0,mode=1777" tmpfs /dev/shm && exec "$@"', str(size), *cmd]


# One ordinary user for each of the tests that run side by side: RLIMIT_NPROC counts per user.
NOBODY = 65534 - int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])


def as_nobody(cmd):
    return ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--", *cmd]


def with_limits(spec, cmd):
    """ulimit options in the words of bash: with_limits("-n 30", cmd)."""
    return ["bash", "-c", f'ulimit {spec} && exec "$@"', "limited", *cmd]


class Guard:
    """Runs commands with and without nnguard, in a NNGUARD_DIR of its own."""

    def __init__(self, base):
        self.base = base
        self.count = 0
        self.lib = LIB
        self.bin = BIN
        self.made = []

    def new_dir(self):
        self.count += 1
        path = os.path.join(self.base, f"guard{self.count}")
        self.made.append(path)
        return path

    def bare(self, cmd, env=None, wrap=None, **kwargs):
        return execute(wrap(list(cmd)) if wrap else cmd, clean_env(env), **kwargs)

    def guarded(self, cmd, env=None, wrap=None, via_run=False, directory=None, settle=True, **kwargs):
        """wrap(cmd) puts cmd into its place; only cmd itself gets the preload."""
        directory = directory or self.new_dir()
        settings = {"NNGUARD_DIR": directory, "NNGUARD_LANG": "en"}
        for name, value in (env or {}).items():
            settings[name] = value
        if via_run:
            inner = [self.bin, "run", *cmd]
        else:
            inner = ["env", f"LD_PRELOAD={self.lib}", *cmd]
        result = execute(wrap(inner) if wrap else inner, clean_env(settings), **kwargs)
        result.dir = settings["NNGUARD_DIR"] or directory
        if settle:
            self.settle(result)
        return result

    def settle(self, result, seconds=3):
        """The monitor must be gone soon after the run (it writes the final report then)."""
        end = time.monotonic() + seconds
        while leftovers(result.dir) and time.monotonic() < end:
            time.sleep(0.05)
        result.left = leftovers(result.dir)
        return result

    def both(self, cmd, env=None, timeout=40, compare=True, **kwargs):
        """The same command bare and guarded: the exit status, and what the program saw of its
        workers, must be the same. Returns the guarded result."""
        bare = self.bare(cmd, env={k: v for k, v in (env or {}).items()
                                   if not k.startswith("NNGUARD")}, timeout=timeout, **kwargs)
        result = self.guarded(cmd, env=env, timeout=timeout, **kwargs)
        result.bare = bare
        if compare:
            assert result.rc == bare.rc, f"status {result.rc}, bare {bare.rc}\n{result}\n== bare {bare}"
            assert result.statuses() == bare.statuses(), f"{result}\n== bare {bare}"
        return result

    def nnguard(self, *args, directory=None, env=None, timeout=20):
        settings = {"NNGUARD_LANG": "en"}
        if directory:
            settings["NNGUARD_DIR"] = directory
        settings.update(env or {})
        return execute([self.bin, *args], clean_env(settings), timeout=timeout)

    def close(self):
        for path in self.made:
            for pid, _ in leftovers(path):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)


# ---- what must hold of every report --------------------------------------------------------------
_SCHEMA = {}


def schema():
    if not _SCHEMA:
        path = os.path.join(ROOT, "test", "report.schema.json")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                _SCHEMA.update(json.load(f))
    return _SCHEMA


CONFIDENCES = ("certain", "likely", "possible", "unknown")
CAUSES = set("""shm_exhausted shm_removed cgroup_oom host_oom oomd_kill killed_by killed_unknown walltime
    cpu_limit file_size_limit file_truncated disk_full io_error worker_segfault worker_abort worker_fpe
    worker_illegal_instruction worker_bus_error worker_exception worker_exit corrupt_data fd_limit
    threads_limit address_space_limit cuda_unavailable cuda_oom cuda_error cuda_fork triton_compile
    version_mismatch omp_conflict spawn_main_guard dataset_error windows_paging_file
    windows_mmap_denied interrupted unknown""".split())


def check_report(report):
    """The fixed schema, by hand, so that it holds even where no JSON Schema validator is at hand."""
    if schema():
        jsonschema = pytest.importorskip("jsonschema")
        jsonschema.validate(report, schema())
    assert report["schema"] == "nnguard-report/1"
    for name in ("run", "machine", "root", "lost_records", "version", "incidents"):
        assert name in report, name
    for name in ("id", "host", "root_pid", "command", "started", "ended", "exit", "rank"):
        assert name in report["run"], name
    stamp = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d)$"
    assert re.match(stamp, report["run"]["started"]), report["run"]["started"]
    if report["incidents"]:
        assert report["root"] is None or 0 <= report["root"] < len(report["incidents"])
    for incident in report["incidents"]:
        assert incident["kind"] in ("death", "stall", "failure")
        assert incident["cause"] in CAUSES
        assert incident["confidence"] in CONFIDENCES
        assert incident["count"] >= 1
        assert re.match(stamp, incident["time"]), incident["time"]
        assert incident["summary"]["en"] and incident["summary"]["zh"]
        assert incident["summary"]["en"] != incident["summary"]["zh"]
        assert incident["process"]["role"] in ("trainer", "worker", "helper")
        assert incident["process"]["start_method"] in ("fork", "spawn", "forkserver", "exec", None)
        for fact in incident["evidence"]:
            assert set(fact) >= {"fact", "value", "source"} and fact["source"]
        if incident["confidence"] == "certain":
            assert incident["evidence"], "a certain verdict without a fact"
        kinds = [fix["kind"] for fix in incident["fixes"]]
        assert all(kind in ("root", "workaround") for kind in kinds)
        assert kinds == sorted(kinds), f"the root fix comes first: {kinds}"
        for fix in incident["fixes"]:
            assert fix["text"]["en"] and fix["text"]["zh"]
        for name in ("native", "python"):
            assert isinstance(incident["stack"][name], list)
        assert isinstance(incident["last_output"], list)
        assert isinstance(incident["last_files"], list)


def check_words(result):
    """What holds of every word on the screen."""
    for line in result.lines:
        assert "\x1b" not in line and "\r" not in line, line
        assert "%" not in line or not re.search(r"%[sdlu]", line), line
        assert "(null)" not in line and "-1 B" not in line, line
    for block in blocks(result):
        assert len(block.encode()) <= BLOCK_MAX


def blocks(result):
    """Runs of consecutive lines of ours."""
    found, current = [], []
    for line in result.err.split("\n"):
        if line.startswith(PREFIX):
            current.append(line)
        elif current:
            found.append("\n".join(current))
            current = []
    if current:
        found.append("\n".join(current))
    return found


def incident_of(result, cause, confidence="certain", kind="death", signo=None, code=None, role=None,
                count=None, only=True, closing=True, left=True):
    """The one incident of this run, checked in every respect that all of them share."""
    report = result.report
    check_report(report)
    check_words(result)
    if only:
        assert len(report["incidents"]) == 1, str(result)
    matching = [i for i in report["incidents"] if i["cause"] == cause]
    assert matching, f"no {cause}\n{result}"
    incident = matching[0]
    wanted = (confidence,) if isinstance(confidence, str) else confidence
    assert incident["confidence"] in wanted, f"{incident['confidence']}, not {wanted}\n{result}"
    assert incident["kind"] == kind, str(result)
    if signo is not None:
        assert incident["exit"]["signal"] == signo, str(result)
        assert incident["exit"]["signal_name"] == signal.Signals(signo).name
    if code is not None:
        assert incident["exit"]["code"] == code, str(result)
    if role is not None:
        assert incident["process"]["role"] == role, str(result)
    if count is not None:
        assert incident["count"] == count, str(result)
    # The screen says it, names the confidence and the log.
    text = "\n".join(result.lines)
    assert text, f"nothing said\n{result}"
    assert any(line.startswith(incident["confidence"]) for line in result.lines), str(result)
    assert "report.txt" in text, str(result)
    for name in ("report.txt", "report.json", "journal"):
        assert os.path.exists(os.path.join(result.runs[0], name)), name
    assert os.path.realpath(os.path.join(result.dir, "latest")) == os.path.realpath(result.runs[0])
    assert os.path.exists(os.path.join(result.dir, "latest", "report.txt"))
    if closing:
        # Helpers that outlive the trainer (multiprocessing's resource_tracker) may still print.
        own = [line for line in result.err.rstrip("\n").split("\n")
               if "resource_tracker" not in line and "warnings.warn" not in line]
        assert own[-1].startswith(PREFIX), f"our closing words are not the last\n{result}"
        # Where the trainer itself fell, the block at its end is the closing one.
        assert "this run" in text or incident["process"]["role"] == "trainer", str(result)
    if left and hasattr(result, "left"):
        assert not result.left, f"left behind: {result.left}\n{result}"
    return incident


def fact(incident, name, default=None):
    for entry in incident["evidence"]:
        if entry["fact"] == name:
            return entry["value"]
    return default


def assert_silent(result, leaves_nothing=True):
    assert not result.lines, f"it spoke\n{result}"
    assert PREFIX.strip() not in result.err, str(result)
    if leaves_nothing:
        assert not result.runs, f"a folder was left: {result.runs}\n{result}"
    assert not result.left, f"left behind: {result.left}\n{result}"


def screen(result):
    return "\n".join(result.lines)


# ---- fixtures ------------------------------------------------------------------------------------
@pytest.fixture(scope="session", autouse=True)
def _built():
    for path in (LIB, BIN):
        if not os.path.exists(path):
            pytest.fail(f"{path} is missing: run make first", pytrace=False)


@pytest.fixture
def base():
    """A folder on a real file system that every user may enter."""
    path = tempfile.mkdtemp(prefix="nngt-", dir=os.environ.get("NNG_TMP", "/var/tmp"))
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def guard(base):
    guard = Guard(base)
    yield guard
    guard.close()


@pytest.fixture
def public(base, guard):
    """A copy of the product and the victims that an ordinary user can read, and a folder it owns."""
    need_root()
    place = os.path.join(base, "public")
    os.makedirs(place)
    for source in (LIB, BIN, VICTIM):
        shutil.copy(source, place)
    guard.lib = os.path.join(place, "libnnguard.so")
    guard.bin = os.path.join(place, "nnguard")
    own = os.path.join(base, "own")
    os.makedirs(own, mode=0o700)
    os.chown(own, NOBODY, NOBODY)
    guard.base = own

    class Public:
        victim = os.path.join(place, os.path.basename(VICTIM))
        home = own
        python = SYSTEM_PYTHON
    for path, _, names in os.walk(place):
        for name in names:
            os.chmod(os.path.join(path, name), 0o755)
    return Public


def victim(*args, python=None, script=None):
    return [python or sys.executable, script or VICTIM, *[str(a) for a in args]]


def need_root():
    if not IS_ROOT:
        pytest.skip("needs root (mounts, cgroups or another user)")


def need_tool(*names):
    for name in names:
        if not shutil.which(name):
            pytest.skip(f"{name} is not installed")


def can_mount():
    done = subprocess.run(["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


@pytest.fixture(scope="session")
def mounts():
    if not shutil.which("unshare") or not can_mount():
        pytest.skip("no right to mount (a private /dev/shm needs it)")


@pytest.fixture(scope="session")
def native(tmp_path_factory):
    """Compiles test/faults/native/NAME to a shared object once; returns a function name -> path."""
    place = os.path.join(BUILD, "native")
    os.makedirs(place, exist_ok=True)

    def build(name):
        source = os.path.join(HERE, "native", name)
        target = os.path.join(place, "lib" + os.path.splitext(name)[0] + ".so")
        if os.path.exists(target) and os.path.getmtime(target) > os.path.getmtime(source):
            return target
        compiler = "g++" if name.endswith("pp") else "gcc"
        if not shutil.which(compiler):
            pytest.skip(f"{compiler} is not installed")
        new = f"{target}.{os.getpid()}"
        subprocess.run([compiler, "-O1", "-g", "-fPIC", "-shared", "-fno-omit-frame-pointer", source,
                        "-o", new], check=True)
        os.rename(new, target)
        return target
    return build


def program(name, *flags, target=None):
    """Compiles test/faults/native/NAME to a program."""
    place = os.path.join(BUILD, "native")
    os.makedirs(place, exist_ok=True)
    target = os.path.join(place, target or os.path.splitext(name)[0])
    source = os.path.join(HERE, "native", name)
    if not os.path.exists(target) or os.path.getmtime(target) < os.path.getmtime(source):
        new = f"{target}.{os.getpid()}"
        done = subprocess.run(["gcc", "-O1", "-g", source, *flags, "-o", new], stderr=subprocess.PIPE)
        if done.returncode != 0:
            pytest.skip(f"cannot build {name} {' '.join(flags)}: {done.stderr.decode()[:200]}")
        os.rename(new, target)
    return target


class Cgroup:
    """One control group of the tests' own, v1 (one controller) or v2."""

    def __init__(self, controller):
        self.controller = controller
        self.v2 = False
        parent = None
        with open("/proc/self/cgroup", encoding="ascii") as f:
            for line in f:
                _, names, path = line.rstrip("\n").split(":", 2)
                if controller in names.split(","):
                    root = f"/sys/fs/cgroup/{controller}"
                    parent = root + path if os.path.isdir(root + path) else root
                elif names == "" and parent is None and \
                        os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
                    with open("/sys/fs/cgroup/cgroup.subtree_control", encoding="ascii") as g:
                        if controller in g.read().split():
                            parent, self.v2 = "/sys/fs/cgroup", True
        if not parent or not os.access(parent, os.W_OK) or not IS_ROOT:
            pytest.skip(f"no right to make a {controller} cgroup")
        self.path = os.path.join(parent, f"nngt-{os.getpid()}-{time.monotonic_ns() & 0xffffff:x}")
        try:
            os.mkdir(self.path)
        except OSError as error:
            pytest.skip(f"cannot make a {controller} cgroup: {error}")
        self.children = []

    def write(self, name, value, path=None):
        with open(os.path.join(path or self.path, name), "w", encoding="ascii") as f:
            f.write(str(value))

    def read(self, name, path=None):
        with open(os.path.join(path or self.path, name), encoding="ascii") as f:
            return f.read()

    def limit_memory(self, size, path=None):
        if self.v2:
            self.write("memory.max", size, path)
            with contextlib.suppress(OSError):
                self.write("memory.swap.max", 0, path)
        else:
            self.write("memory.limit_in_bytes", size, path)

    def kills(self):
        name = "memory.events" if self.v2 else "memory.oom_control"
        return int(re.search(r"^oom_kill (\d+)", self.read(name), re.M).group(1))

    def child(self, name):
        path = os.path.join(self.path, name)
        os.mkdir(path)
        self.children.append(path)
        return path

    def wrap(self, cmd, path=None):
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', path or self.path, *cmd]

    def close(self):
        for path in [*reversed(self.children), self.path]:
            for _ in range(40):
                try:
                    for pid in self.read("cgroup.procs", path).split():
                        os.kill(int(pid), signal.SIGKILL)
                except OSError:
                    pass
                try:
                    os.rmdir(path)
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.1)


@pytest.fixture
def memory_cgroup():
    group = Cgroup("memory")
    yield group
    group.close()


@pytest.fixture
def pids_cgroup():
    group = Cgroup("pids")
    yield group
    group.close()


class Loop:
    """A file system in a file: it can be full, and it can lose the disk under it."""

    def __init__(self, base, kind, size):
        need_root()
        need_tool(f"mkfs.{kind}", "losetup")
        self.kind = kind
        self.image = os.path.join(base, f"{kind}.img")
        self.mount_point = os.path.join(base, f"mnt-{kind}")
        self.mounted = False
        os.mkdir(self.mount_point)
        with open(self.image, "wb") as f:
            f.truncate(size)
        options = ["-q", "-F", "-m", "0"] if kind == "ext4" else ["-q", "-f"]
        subprocess.run([f"mkfs.{kind}", *options, self.image], check=True, stdout=subprocess.DEVNULL)
        self.mount()
        os.chmod(self.mount_point, 0o777)

    def mount(self, options="loop"):
        done = subprocess.run(["mount", "-t", self.kind, "-o", options, self.image, self.mount_point],
                              stderr=subprocess.PIPE)
        if done.returncode != 0:
            pytest.skip(f"cannot mount a {self.kind} loop: {done.stderr.decode().strip()[:160]}")
        self.mounted = True

    def umount(self):
        for _ in range(50):
            done = subprocess.run(["umount", self.mount_point], stderr=subprocess.PIPE)
            if done.returncode == 0 or b"not mounted" in done.stderr:
                self.mounted = False
                return
            time.sleep(0.1)
        subprocess.run(["umount", "-l", self.mount_point], stderr=subprocess.DEVNULL)

    def fill(self, name="filler", leave=0):
        """Leave only `leave` bytes (roughly)."""
        path = os.path.join(self.mount_point, name)
        with open(path, "wb", buffering=0) as f:
            size = 1 << 20
            while size >= 4096:
                try:
                    f.write(b"x" * size)
                except OSError:
                    size //= 2
            with contextlib.suppress(OSError):
                os.fsync(f.fileno())
        with open(path, "ab", buffering=0) as f:
            with contextlib.suppress(OSError):
                while f.write(b"x" * 4096):
                    os.fsync(f.fileno())
        if leave:
            with open(path, "r+b") as f:
                f.truncate(max(0, os.path.getsize(path) - leave))
        with open(path, "rb") as f:  # sync() would wait for every other disk, too
            ctypes.CDLL(None).syncfs(f.fileno())

    def close(self):
        if self.mounted:
            self.umount()


@pytest.fixture
def loop(base):
    made = []

    def make(kind="ext4", size=32 << 20):
        made.append(Loop(base, kind, size))
        return made[-1]
    yield make
    for fs in made:
        fs.close()


# ---- second kernels and containers ---------------------------------------------------------------
def boot_uml(base, script, mem="512M", timeout=60):
    """Boot user-mode Linux on this machine's own files (read-only) with `script` as its init; what the
    script prints comes back. Its /tmp and /dev/shm are the guest's own; it runs as the guest's root."""
    need_tool("linux")
    need_root()
    init = os.path.join(base, "uml-init.sh")
    with open(init, "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\n"
                "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp\n"
                "mount -t proc proc /proc; mount -t sysfs sys /sys\n"
                "mount -t cgroup2 cgroup2 /sys/fs/cgroup\n"
                "mount -t tmpfs -o size=300m tmpfs /tmp; mount -t tmpfs -o size=64m tmpfs /run\n"
                "mkdir -p /dev/shm 2>/dev/null; mount -t tmpfs tmpfs /dev/shm\n"
                "ip link set lo up 2>/dev/null\n"
                f"{script}\n"
                "echo UML-END\n"
                "echo o > /proc/sysrq-trigger; sleep 5\n")
    os.chmod(init, 0o755)
    cmd = ["linux", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"mem={mem}",
           f"init={init}", "con=null", "con0=fd:0,fd:1", "quiet"]
    uml_dir = os.path.join(base, "uml")
    os.makedirs(uml_dir, exist_ok=True)
    env = clean_env({"HOME": uml_dir, "TMPDIR": uml_dir})
    result = execute(cmd, env, timeout=timeout)
    if "UML-END" not in result.out and "UML-START" not in result.out:
        pytest.skip(f"user-mode Linux does not boot here: {result.out[-200:]} {result.err[-200:]}")
    result.out = result.out.replace("\r\n", "\n")
    return result


@pytest.fixture
def uml(base):
    return lambda script, **kwargs: boot_uml(base, script, **kwargs)


class Runc:
    """An OCI container from Debian's runc on this machine's own files, with Docker's defaults: a
    /dev/shm of 64 MiB and the command as PID 1."""

    def __init__(self, base):
        need_root()
        need_tool("runc")
        self.base = base
        self.root = os.path.join(base, "rootfs")
        self.mounted = False
        os.mkdir(self.root)
        done = subprocess.run(["mount", "--bind", "/", self.root], stderr=subprocess.PIPE)
        if done.returncode != 0:
            pytest.skip("no right to bind-mount for runc")
        self.mounted = True
        self.number = 0

    def wrap(self, cmd, env, shm="65536k", writable=()):
        """A command line that runs cmd in the container with env."""
        self.number += 1
        bundle = os.path.join(self.base, f"bundle{self.number}")
        os.mkdir(bundle)

        def tmpfs(where, *options):
            return {"destination": where, "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "nodev", "mode=1777", *options]}
        capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD",
                        "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP",
                        "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"]
        config = {
            "ociVersion": "1.0.2",
            "process": {"terminal": False, "user": {"uid": 0, "gid": 0}, "args": list(cmd),
                        "env": [f"{name}={value}" for name, value in env.items()], "cwd": "/",
                        "capabilities": {name: capabilities for name in
                                         ("bounding", "effective", "permitted")},
                        "noNewPrivileges": False},
            "root": {"path": self.root, "readonly": True},
            "hostname": "box",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
                tmpfs("/dev/shm", "noexec", f"size={shm}"),
                tmpfs("/tmp", "size=256m"),
                *[{"destination": path, "type": "bind", "source": path, "options": ["bind", "rw"]}
                  for path in writable]],
            "linux": {"namespaces": [{"type": name} for name in ("pid", "ipc", "uts", "mount")],
                      "maskedPaths": ["/proc/kcore", "/proc/keys"],
                      "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"]}}
        with open(os.path.join(bundle, "config.json"), "w", encoding="utf-8") as f:
            json.dump(config, f)
        state = os.path.join(self.base, "runc")
        return ["runc", "--root", state, "run", "--bundle", bundle,
                f"nngt-{os.getpid()}-{self.number}"]

    def close(self):
        state = os.path.join(self.base, "runc")
        for number in range(1, self.number + 1):
            subprocess.run(["runc", "--root", state, "delete", "-f", f"nngt-{os.getpid()}-{number}"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if self.mounted:
            subprocess.run(["umount", self.root], stderr=subprocess.DEVNULL)


@pytest.fixture
def runc(base):
    box = Runc(base)
    yield box
    box.close()


# ---- Pythons -------------------------------------------------------------------------------------
def torch_python(which):
    """Paths of the Pythons with an old (SIGBUS) and a new (ENOSPC) torch, or a skip."""
    if which == "old":
        for path in (os.path.join(ROOT, "build/venv-old/bin/python"), SYSTEM_PYTHON):
            if os.path.exists(path) and _imports(path, "torch"):
                return path
        pytest.skip("no Python with torch up to 2.9 (Debian's python3-torch)")
    path = os.path.join(ROOT, "build/venv-nnunet/bin/python")
    if os.path.exists(path):
        return path
    pytest.skip("build/venv-nnunet is missing (scripts/setup.sh trainer)")


_IMPORTS = {}


def _imports(python, module):
    key = (python, module)
    if key not in _IMPORTS:
        _IMPORTS[key] = subprocess.run(
            [python, "-c", f"import importlib.util as u, sys; sys.exit(not u.find_spec('{module}'))"],
            stderr=subprocess.DEVNULL).returncode == 0
    return _IMPORTS[key]


def wait_until(condition, seconds=10, step=0.02):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(step)
    return condition()


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descendants(pid):
    """Pids below pid, as /proc shows them now."""
    parents = {}
    for p in _pids():
        with contextlib.suppress(OSError, IndexError, ValueError):
            with open(f"/proc/{p}/stat", encoding="ascii", errors="replace") as f:
                parents[p] = int(f.read().rpartition(")")[2].split()[1])
    found, todo = [], [pid]
    while todo:
        current = todo.pop()
        for child, parent in parents.items():
            if parent == current and child not in found:
                found.append(child)
                todo.append(child)
    return found
