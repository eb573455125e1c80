"""Run on Linux with this folder on PYTHONPATH: Python sees of the system only what Windows has.

Taken away are modules, functions and flags that Windows lacks. What Windows has, but refuses or
does otherwise, is refused or done otherwise here: opening a folder, flushing a file that is open
for reading, renaming or deleting an open or mapped file, names of devices, names that differ in
case alone, text in the code page with CRLF. `sys.platform` and `os.name` stay, since the standard
library itself would no longer work; so what it does on Windows alone is not run.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import mmap
import multiprocessing
import multiprocessing.context
import os
import re
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock

MODULES = ("fcntl", "pwd", "grp", "resource", "termios", "pty", "syslog", "posixshmem")
FUNCTIONS = (
    *("fork", "forkpty", "pread", "preadv", "pwrite", "pwritev", "mkfifo", "mknod", "nice"),
    *("getuid", "geteuid", "getgid", "getegid", "getgroups", "setuid", "setgid"),
    *("chown", "fchown", "lchown", "fchmod", "fchdir", "chroot", "sync", "statvfs", "fstatvfs"),
    *("sched_getaffinity", "sched_setaffinity", "posix_fallocate", "posix_fadvise", "sendfile"),
    *("killpg", "setsid", "getpgid", "setpgid", "getloadavg", "lockf", "fdatasync"),
)
FLAGS = ("NOFOLLOW", "DIRECTORY", "NONBLOCK", "CLOEXEC", "SYNC", "DSYNC", "NOATIME", "PATH")
SIGNALS = ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "alarm", "setitimer")
CODE_PAGE = "cp1252"
# The flag's value on Windows; on Linux it is O_LARGEFILE, which has no effect.
O_BINARY = 0x8000
DEVICE = re.compile(r"(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(\..*)?", re.IGNORECASE)
USER = "Łukasz Ångström"

system = {
    name: getattr(os, name)
    for name in ("open", "fsync", "replace", "rename", "unlink", "mkdir", "listdir", "readlink")
}
close_on_exec = os.O_CLOEXEC
system_open, flags_of = io.open, fcntl.fcntl
get_flags, access_mode = fcntl.F_GETFL, os.O_ACCMODE


def refusal(number: int, path: object) -> OSError:
    return OSError(number, f"as Windows: {os.strerror(number)}", os.fspath(path))  # type: ignore[call-overload]


def check_new(path: Any) -> None:
    """Raise if Windows could not create the file or folder, or would take it for another one."""
    if isinstance(path, int):
        return
    folder, name = os.path.split(os.fsdecode(path))
    bad = set(name) & set('<>:"|?*\\') or any(ord(letter) < 32 for letter in name)
    if bad or name[-1:] in ("", ".", " ") or DEVICE.fullmatch(name):
        raise refusal(errno.EINVAL, path)
    for other in system["listdir"](folder or "."):
        if other != name and other.casefold() == name.casefold():
            raise refusal(errno.EEXIST, path)


def is_open(path: Any) -> bool:
    """Whether this process has the file open, or mapped into memory."""
    target = os.path.realpath(os.fsdecode(path))
    for handle in system["listdir"]("/proc/self/fd"):
        try:
            if system["readlink"](f"/proc/self/fd/{handle}") == target:
                return True
        except OSError:
            continue
    with system_open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        return any(line.rstrip("\n").endswith(f" {target}") for line in maps)


def open_file(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> Any:
    if not isinstance(file, int):
        if Path(file).is_dir():
            raise refusal(errno.EACCES, file)
        if not os.path.lexists(file) and set(mode) & set("wxa"):
            check_new(file)
    if "b" not in mode:
        encoding = CODE_PAGE if encoding in (None, "locale") else encoding
        newline = "\r\n" if newline is None and set(mode) & set("wxa+") else newline
    binary = None if opener is None else lambda path, flags: opener(path, flags | O_BINARY)
    return system_open(file, mode, buffering, encoding, errors, newline, closefd, binary)


def open_handle(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    if Path(path).is_dir():
        raise refusal(errno.EACCES, path)
    if flags & os.O_CREAT and not os.path.lexists(path):
        check_new(path)
    return int(system["open"](path, flags | close_on_exec, mode, dir_fd=dir_fd))


def fsync(handle: Any) -> None:
    number = handle if isinstance(handle, int) else handle.fileno()
    if flags_of(number, get_flags) & access_mode == os.O_RDONLY:
        raise OSError(errno.EBADF, "as Windows: a file that is open for reading is not flushed")
    system["fsync"](number)


def replace(source: Any, target: Any, **options: Any) -> None:
    for path in (source, target):
        if os.path.lexists(path) and is_open(path):
            raise refusal(errno.EACCES, path)
    if not os.path.lexists(target):
        check_new(target)
    system["replace"](source, target, **options)


def rename(source: Any, target: Any, **options: Any) -> None:
    if os.path.lexists(target):
        raise refusal(errno.EEXIST, target)
    replace(source, target, **options)


def unlink(path: Any, **options: Any) -> None:
    if os.path.lexists(path) and is_open(path):
        raise refusal(errno.EACCES, path)
    system["unlink"](path, **options)


def mkdir(path: Any, mode: int = 0o777, **options: Any) -> None:
    if not os.path.lexists(path):
        check_new(os.fsdecode(path).rstrip("/"))
    system["mkdir"](path, mode, **options)


def symlink(source: Any, target: Any, *unused: Any, **options: Any) -> None:
    raise refusal(errno.EPERM, target)


def take_away() -> None:
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    missing = {
        os: [*FUNCTIONS, *(f"O_{flag}" for flag in FLAGS)],
        signal: SIGNALS,
        # But for the flags that torch asks for unless `sys.platform` is Windows.
        mmap: {name for name in dir(mmap) if name.startswith(("MAP_", "PROT_", "MADV_"))}
        - {"MAP_PRIVATE", "MAP_SHARED"},
    }
    for module, names in missing.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    os.O_BINARY = O_BINARY  # type: ignore[attr-defined]
    os.open, os.fsync, os.replace, os.rename = open_handle, fsync, replace, rename  # type: ignore[assignment]
    os.unlink, os.remove, os.mkdir = unlink, unlink, mkdir
    os.symlink = symlink  # type: ignore[assignment]
    os.getlogin = lambda: USER
    os.chmod = lambda path, mode, **options: None
    builtins.open = io.open = open_file


def keep_locks() -> None:
    """filelock has code of its own for Windows, which cannot run here: leave it what it needs."""
    system_os = types.SimpleNamespace(**vars(os))
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "filelock" and hasattr(module, "os"):
            setattr(module, "os", system_os)  # noqa: B010


def only_spawn() -> None:
    multiprocessing.set_start_method("spawn")
    for method in ("fork", "forkserver"):
        multiprocessing.context._concrete_contexts.pop(method)  # type: ignore[attr-defined]
    multiprocessing.get_all_start_methods = lambda: ["spawn"]


assert filelock.has_fcntl
keep_locks()
only_spawn()
take_away()
