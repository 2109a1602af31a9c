#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The project's own rules, which no linter knows:  check.py BUILD

Each function named check_* yields complaints; its first docstring line is the rule.
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ALLOW = "scripts/imports.allow"
MAP = "shim/preload/exports.map"
NEWEST_GLIBC = (2, 17)
NEEDED = {"libc.so.6"}
# Even an entry in the allow-list must not let these in.
# (vsnprintf is left to the allow-list: the hooks of the printf family have no other way to the text.)
NEVER = re.compile(r"^(_Unwind_.*|unw_.*|_U.*|__tls_get_addr|__.*_chk|__stack_chk_fail|(m|c|re)alloc|free|"
                   r"posix_memalign|(?!vsnprintf$).*printf|f?puts|fwrite|fopen|dlopen|__isoc\d+_.*)$")
# The folder on the left includes nothing that matches the right: data flows one way only.
LAYERS = {
    "shim/preload": r"(causes|report|monitor|cli|probes)/|probes\.h|snapshot\.h|jansson|pcre2|libunwind",
    "shim/journal": r"(preload|causes|report|monitor|cli|probes)/|probes\.h|jansson|pcre2|libunwind",
    "shim/causes": r"(preload|report|monitor|cli|probes)/|append\.h|snapshot\.h|probes\.h|report\.h|jansson|"
                   r"^(fcntl|unistd|dirent|sys/socket|sys/stat|sys/mman|sys/ptrace|sys/wait)\.h$",
    "shim/report": r"(preload|monitor|cli)/|internal\.h|^(sys/socket|sys/ptrace|sys/wait)\.h$",
    "probes": r"(preload|report|monitor|cli)/|internal\.h|report\.h|cause\.h|jansson",
}
# A cause does no I/O by any other way either.
CAUSES_NEVER_CALL = re.compile(r"\b(FILE|fopen|open|openat|read|write|fprintf|printf|puts|popen|system|"
                               r"getenv|time|clock_gettime|socket|stat)\s*\(|\bFILE\s*\*")
# Spelled in halves, so that this file does not accuse itself.
PRIVATE = re.compile("|".join(["/wo" "rk/", "/opt/" "pypi", "/opt/" "wheels", "pypi" r"\.org",
                               "python" "hosted", r"pytorch\.org" "/whl", "anth" "ropic", "cla" "ude",
                               "chat" "gpt", "/ro" "ot/", "/tmp/" "brief", "nng-" r"git\.lock"]), re.I)


def run(*command):
    return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def tracked(*patterns):
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns)
    return [name for name in sorted(set(names.split("\n"))) if os.path.isfile(os.path.join(ROOT, name))]


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8", errors="replace") as file:
        return file.read()


def code(name):
    """The text without comments; line numbers stay."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", lambda m: "\n" * m.group().count("\n"), read(name), flags=re.S)


def library(build):
    return os.path.join(ROOT, build, "libnnguard.so")


def dynamic_symbols(build):
    """(defined, undefined): name -> version or ''."""
    defined, undefined = {}, {}
    for line in run("objdump", "-T", library(build)).splitlines():
        match = re.match(r"^[0-9a-f]+ (.{7}) (\S+)\s+[0-9a-f]+\s+(?:\(?([\w.]+)\)?\s+)?(\S+)$", line)
        if match:
            target = undefined if match.group(2) == "*UND*" else defined
            target[match.group(4)] = match.group(3) or ""
    return defined, undefined


def hooked_names(build):
    """What HOOK() declared, by the pointers it leaves (macros may wrap HOOK, so not by the text)."""
    return set(re.findall(r" nng_hookp_(\w+)$", run("nm", library(build)), re.M))


def check_exports(build):
    """the library exports exactly the hooked names, without a version node"""
    defined, _ = dynamic_symbols(build)
    hooks = hooked_names(build)
    if not hooks:
        yield "no hook at all"
    for name in sorted(set(defined) - hooks):
        yield f"exported, but no HOOK() declares it: {name}"
    for name in sorted(hooks - set(defined)):
        yield f"HOOK({name}) is not exported"
    for name, version in defined.items():
        if version not in ("", "Base"):
            yield f"exported with version {version}, which switches interposition off: {name}"


def check_map(build):
    """the version script is anonymous and agrees with the hooks"""
    text = re.sub(r"/\*.*?\*/|#[^\n]*", "", read(MAP), flags=re.S)
    if not re.match(r"^\s*\{", text) or re.search(r"\}\s*\w+\s*;|\}\s*;\s*\w", text):
        yield f"{MAP}: a named node switches interposition off"
    listed = re.search(r"global:(.*?)(?:local:|\})", text, re.S)
    names = set(re.findall(r"[\w*]+", listed.group(1))) if listed else set()
    if "*" not in names:
        for name in sorted(names ^ hooked_names(build)):
            yield f"{MAP} and the HOOK()s differ: {name}"


def check_imports(build):
    """the library imports nothing beyond the allow-list, and nothing newer than GLIBC_2.17"""
    allowed = {}
    for number, line in enumerate(read(ALLOW).splitlines(), 1):
        name, _, why = line.partition("#")
        if name.strip():
            allowed[name.strip()] = (number, why)
            if not why.strip():
                yield f"{ALLOW}:{number}: no reason given for {name.strip()}"
    _, undefined = dynamic_symbols(build)
    for name, version in sorted(undefined.items()):
        if NEVER.match(name):
            yield f"must never be imported: {name}"
        elif name not in allowed:
            yield f"imported, but not in {ALLOW}: {name}"
        glibc = re.match(r"GLIBC_(\d+)\.(\d+)", version)
        if glibc and tuple(map(int, glibc.groups())) > NEWEST_GLIBC:
            yield f"too new for CentOS 7: {name}@{version}"
        if version == "GLIBC_ABI_DT_RELR":
            yield "packed relocations need GLIBC_2.36"
    for name in sorted(set(allowed) - set(undefined)):
        number, why = allowed[name]
        # A compiler may put memset in or leave it out.
        if "pure" not in why and "gcc's" not in why:
            yield f"{ALLOW}:{number}: {name} is not imported any more"


def check_needed(build):
    """the library needs libc only"""
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", library(build))))
    for name in sorted(needed - NEEDED):
        yield f"NEEDED {name}"


def check_tls(build):
    """the library's thread-local data is small and reached without a call"""
    for line in run("readelf", "-lW", library(build)).splitlines():
        match = re.match(r"^\s+TLS\s+\S+ \S+ \S+ \S+ (0x[0-9a-f]+)", line)
        if match and int(match.group(1), 16) > 512:
            yield f"TLS of {int(match.group(1), 16)} bytes eats the static surplus of programs"


def check_inside_calls(build):
    """no object of the library refers to a name that it hooks"""
    hooks = hooked_names(build)
    folder = os.path.join(ROOT, build, "so")
    for path, _, files in os.walk(folder):
        for file in sorted(files):
            if not file.endswith(".o"):
                continue
            name = os.path.join(path, file)
            source = os.path.relpath(name, folder)[:-2] + ".c"
            if not os.path.exists(os.path.join(ROOT, source)):
                continue
            for line in run("nm", "-u", name).splitlines():
                symbol = line.split()[-1].split("@")[0]
                if symbol in hooks:
                    yield f"{source} calls {symbol}, which is hooked: NEXT({symbol}) or nng_sys_*"


def check_layers(_build):
    """each layer includes only what lies on its side (design: data flows one way)"""
    for folder, never in LAYERS.items():
        for name in tracked(f"{folder}/*.c", f"{folder}/*.h"):
            for number, line in enumerate(code(name).splitlines(), 1):
                match = re.match(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', line)
                if match and re.search(never, match.group(1)):
                    yield f"{name}:{number}: includes {match.group(1)}"
                if folder == "shim/causes" and CAUSES_NEVER_CALL.search(
                        re.sub(r'"(\\.|[^"\\])*"', '""', line)):
                    yield f"{name}:{number}: a cause does no I/O: {line.strip()}"


def check_private(_build):
    """nothing tells where or with what this was developed"""
    for name in tracked():
        if re.search(r"\.(png|gz|bin)$|/corpus/", name):
            continue
        for number, line in enumerate(read(name).splitlines(), 1):
            match = PRIVATE.search(line)
            if match:
                yield f"{name}:{number}: {match.group()}"


def check_settings(_build):
    """the settings tables of both READMEs name exactly the variables that the sources read"""
    used = set()
    for name in tracked("shim/*.c", "shim/*.h", "probes/*.c"):
        used |= set(re.findall(r'"(NNGUARD(?:_[A-Z0-9_]+)?)=?"', code(name)))
    for readme in ("README.md", "README.zh.md"):
        listed = set(re.findall(r"^\|\s*`(NNGUARD(?:_[A-Z0-9_]+)?)", read(readme), re.M))
        for variable in sorted(used - listed):
            yield f"{readme}: {variable} is read by the program but not listed"
        for variable in sorted(listed - used):
            yield f"{readme}: {variable} is listed but nothing reads it"


def check_headers(_build):
    """every source file says its licence and what it is"""
    for name in tracked("*.c", "*.h"):
        if not re.match(r"^(/\* |// )SPDX-License-Identifier: MIT", read(name)):
            yield f"{name}: no SPDX line"
    for name in tracked("*.py", "*.sh", "test/run", ".ci/run"):
        if os.path.getsize(os.path.join(ROOT, name)) and "SPDX-License-Identifier: MIT" not in read(name)[:200]:
            yield f"{name}: no SPDX line"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    bad = 0
    for name, check in list(globals().items()):
        if not name.startswith("check_"):
            continue
        complaints = list(check(sys.argv[1]))
        print(f"{'ok    ' if not complaints else 'FAILED'} {name[6:]}: {check.__doc__.splitlines()[0]}")
        for complaint in complaints:
            print(f"    {complaint}")
        bad += len(complaints)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
