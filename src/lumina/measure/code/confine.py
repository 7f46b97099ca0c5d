"""The program that runs generated code apart from everything else (Linux only).

It is started as a script of its own, by `lumina.measure.code.restricted`, and imports
the standard library only. A chain of processes leads to the code:

1. this one, which reads a request from its standard input and writes the owner's part
   of the user namespace;
2. one in a user namespace of its own, that makes the namespaces of mounts, processes,
   network, System V objects and the host name;
3. the first process of the new process namespace, which sees a file system of the
   interpreter, read-only, and one empty folder, and with whose end the kernel ends
   every process in there;
4. the interpreter with the code: another user, no capabilities, limits of resources,
   a filter of system calls, an environment of four names.

Whatever cannot be set up is reported as `refused`, and the code does not run. Sources:
the manual pages user_namespaces(7), mount_namespaces(7), pid_namespaces(7),
pivot_root(2), mount_setattr(2), setrlimit(2), seccomp(2).
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import select
import signal
import struct
import sys
import time
from typing import Any, NoReturn

NOBODY = 65534
"""User and group of the code, as it sees itself."""

PROGRAM, FOLDER = "/sandbox.py", "/sandbox"
"""Where the code finds itself, and its empty folder."""

_NEW_USER = 0x10000000
_NEW_OTHERS = 0x00020000 | 0x08000000 | 0x04000000 | 0x20000000 | 0x40000000
_ANY_NEW = _NEW_USER | _NEW_OTHERS | 0x02000000
_NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = (
    0x2, 0x4, 0x8, 0x20, 0x1000, 0x4000, 0x40000,
)  # fmt: skip
_READ_ONLY = 0x1
_MOUNT_SETATTR = 442
_EPERM, _ENOSYS = 1, 38

# name -> (x86_64, aarch64); from the tables of system calls of the kernel.
_DENIED = {
    "socket": (41, 198), "ptrace": (101, 117), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "bpf": (321, 280), "userfaultfd": (323, 282),
    "perf_event_open": (298, 241), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "open_by_handle_at": (304, 265),
    "memfd_create": (319, 279), "shmget": (29, 194), "io_uring_setup": (425, 425),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "pidfd_getfd": (438, 438), "mount_setattr": (_MOUNT_SETATTR, _MOUNT_SETATTR),
}  # fmt: skip
_CLONE, _CLONE3 = (56, 220), (435, 435)
_PIVOT_ROOT = (155, 41)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_C = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """A protection that this system does not give."""


def _done(name: str, result: int) -> None:
    if result != 0:
        raise Refused(f"{name}: {os.strerror(ctypes.get_errno())}")


def _unshare(flags: int, what: str) -> None:
    _done(f"unshare of {what}", _C.unshare(flags))


def _prctl(option: int, value: int, third: Any = 0) -> int:
    zero = ctypes.c_ulong(0)
    found: int = _C.prctl(option, ctypes.c_ulong(value), third, zero, zero)
    return found


def _mount(source: str | None, target: str, kind: str | None, flags: int,
           data: str | None = None) -> None:  # fmt: skip
    words = [None if x is None else x.encode() for x in (source, target, kind, data)]
    result = _C.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])
    _done(f"mount of {target}", result)


def _lock_mount(target: str, attributes: int) -> None:
    """Make a mount and all below it read-only, and more."""
    asked = struct.pack("QQQQ", attributes | _READ_ONLY, 0, 0, 0)
    at_cwd, recursive = ctypes.c_int(-100), ctypes.c_uint(0x8000)
    result = _C.syscall(
        ctypes.c_long(_MOUNT_SETATTR), at_cwd, target.encode(), recursive, asked,
        ctypes.c_size_t(len(asked)),
    )  # fmt: skip
    _done(f"mount_setattr of {target}", result)


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise Refused(f"{path.rsplit('/', 1)[1]}: {error.strerror}") from error


def _map_ids(pid: int) -> None:
    """Give the user namespace of a process its users.

    The limit on processes does not hold for the superuser of the machine, so the code
    of a superuser runs as nobody, and that of anybody else as themselves.
    """
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        both = f"0 0 1\n{NOBODY} {NOBODY} 1\n"
        _write(f"/proc/{pid}/uid_map", both)
        _write(f"/proc/{pid}/gid_map", both)
    else:
        _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/uid_map", f"{NOBODY} {user} 1\n")
        _write(f"/proc/{pid}/gid_map", f"{NOBODY} {group} 1\n")


def _show(source: str, root: str) -> None:
    """Let a folder, a file or a symbolic link of the machine appear under `root`."""
    target = root + source
    if os.path.lexists(target):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.mkdir(target)
    else:
        open(target, "x").close()
    _mount(source, target, None, _BIND | _REC)
    in_dev = source.startswith("/dev/")
    _lock_mount(target, _NOSUID | (_NOEXEC if in_dev else _NODEV))


def _file_system(request: dict[str, Any]) -> None:
    """Leave the machine's files for the interpreter, the code and an empty folder."""
    root, limits = request["root"], request["limits"]
    _mount(None, "/", None, _REC | _PRIVATE)
    size = 16 << 20
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, f"size={size},mode=755")
    for path in request["shown"]:
        if os.path.lexists(path):
            _show(path, root)
    os.mkdir(root + FOLDER)
    bounds = f"size={limits['folder_bytes']},nr_inodes=1024,mode=777"
    _mount("tmpfs", root + FOLDER, "tmpfs", _NOSUID | _NODEV, bounds)
    with open(root + PROGRAM, "w", encoding="utf-8") as file:
        file.write(request["source"])
    os.chdir(root)
    number = _PIVOT_ROOT[_architecture(platform.machine())[0]]
    _done("pivot_root", _C.syscall(ctypes.c_long(number), b".", b"."))
    _done("umount of the machine's files", _C.umount2(b".", 2))
    os.chdir("/")
    _mount(None, "/", None, _REMOUNT | _BIND | _READ_ONLY | _NOSUID | _NODEV)


def _limit(limits: dict[str, Any]) -> None:
    bounds = {
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        # Of somebody who is not the superuser two processes of this chain count too.
        resource.RLIMIT_NPROC: limits["processes"] + (0 if os.getuid() == 0 else 2),
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, bound in bounds.items():
        try:
            most = resource.getrlimit(kind)[1]
            least = bound if most == resource.RLIM_INFINITY else min(bound, most)
            # Past the lower bound the code gets a signal, past the upper one it ends.
            room = most == resource.RLIM_INFINITY or least < most
            hard = least + 1 if kind == resource.RLIMIT_CPU and room else least
            resource.setrlimit(kind, (least, hard))
        except (OSError, ValueError) as error:
            raise Refused(f"setrlimit: {error}") from error


def _architecture(machine: str) -> tuple[int, int]:
    if machine not in _ARCHITECTURES:
        raise Refused(f"no filter of system calls for the processor {machine}")
    return _ARCHITECTURES[machine]


def filter_of_calls(machine: str) -> list[tuple[int, int, int, int]]:
    """The seccomp program: (code, jump if true, jump if false, value) a row.

    Raises:
        Refused: the numbers of system calls of this processor are not listed.
    """
    column, architecture = _architecture(machine)
    load, equal, above, bits, end = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, deny = 0x7FFF0000, 0x80000000, 0x00050000
    rows = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (end, 0, 0, kill),
        (load, 0, 0, 0),
    ]
    if machine == "x86_64":  # the numbers of the x32 interface
        rows += [(above, 0, 1, 0x40000000), (end, 0, 0, deny | _EPERM)]
    for numbers in _DENIED.values():
        rows += [(equal, 0, 1, numbers[column]), (end, 0, 0, deny | _EPERM)]
    # glibc takes clone where there is no clone3, whose flags a filter cannot read.
    rows += [(equal, 0, 1, _CLONE3[column]), (end, 0, 0, deny | _ENOSYS)]
    rows += [
        (equal, 0, 3, _CLONE[column]),
        (load, 0, 0, 16),
        (bits, 0, 1, _ANY_NEW),
        (end, 0, 0, deny | _EPERM),
        (end, 0, 0, allow),
    ]
    return rows


def _filter_calls() -> None:
    rows = filter_of_calls(platform.machine())
    program = b"".join(struct.pack("HBBI", *row) for row in rows)
    held = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(rows), ctypes.addressof(held))
    _done("seccomp", _prctl(22, 2, ctypes.create_string_buffer(header, len(header))))


def _become_the_code(request: dict[str, Any], status: int) -> NoReturn:
    """Give up every right and run the interpreter."""
    try:
        os.setsid()
        _limit(request["limits"])
        if os.getuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        _done("no_new_privs", _prctl(38, 1))
        os.chdir(FOLDER)
        _filter_calls()
        path = request["python"]
        # -P and -S: only the standard library; the seed: sets are ordered alike.
        words = [path, "-P", "-s", "-S", "-B", "-X", "utf8", PROGRAM]
        names = {"HOME": FOLDER, "TMPDIR": FOLDER, "LANG": "C.UTF-8"}
        os.execve(path, words, names | {"PYTHONHASHSEED": "0"})
    except BaseException as error:
        _tell(status, refused=str(error))
        os._exit(3)


def _tell(status: int, **what: Any) -> None:
    os.write(status, json.dumps(what).encode() + b"\n")


def _first_process(request: dict[str, Any], status: int) -> NoReturn:
    """Set up the file system, run the code, tell how it ended, and end all with it."""
    code = 3
    try:
        _prctl(1, signal.SIGKILL)
        _file_system(request)
        _tell(status, started=True)
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _become_the_code(request, status)
        for stream in (0, 1, 2):  # the code's end of them is the only one left
            os.close(stream)
        handle = os.pidfd_open(pid)
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        late = not waiting.poll(int(request["limits"]["seconds"] * 1000))
        os.kill(pid, signal.SIGKILL)
        _, ended, used = os.wait4(pid, 0)
        _tell(
            status,
            ended=os.waitstatus_to_exitcode(ended),
            late=late,
            seconds=time.monotonic() - began,
            cpu_seconds=used.ru_utime + used.ru_stime,
            memory_bytes=used.ru_maxrss * 1024,
        )
        code = 0
    except BaseException as error:
        _tell(status, refused=str(error))
    os._exit(code)


def _in_new_namespaces(
    request: dict[str, Any], status: int, ready: int, go: int
) -> NoReturn:
    try:
        _prctl(1, signal.SIGKILL)
        _unshare(_NEW_USER, "users")
        os.write(ready, b".")
        if os.read(go, 1) != b".":
            os._exit(3)
        _unshare(_NEW_OTHERS, "mounts, processes and network")
        pid = os.fork()
        if pid == 0:
            _first_process(request, status)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
    except BaseException as error:
        _tell(status, refused=str(error))
        os._exit(3)


def main() -> int:
    """Read a request, run its code in confinement, report on the descriptor named."""
    status = int(sys.argv[1])
    os.set_inheritable(status, False)
    request = json.load(sys.stdin)
    _prctl(1, signal.SIGKILL)
    if os.getppid() != request["parent"]:
        return 3
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ready[0])
        os.close(go[1])
        _in_new_namespaces(request, status, ready[1], go[0])
    os.close(ready[1])
    os.close(go[0])
    try:
        if os.read(ready[0], 1) == b".":
            _map_ids(pid)
            os.write(go[1], b".")
    except Refused as error:
        _tell(status, refused=str(error))
    os.close(go[1])
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF


if __name__ == "__main__":
    sys.exit(main())
