"""Walls around a student's process (Linux). With namespaces it has no network, sees no process but its own, and reads
files without changing any; the folders of the course are empty for it. Where namespaces may not be made, in some
containers, only the limits of memory, files and time are left, and `Walls.name` says so.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Sequence

NOBODY = 65534
NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, BIND, REC, PRIVATE = 0x1, 0x1000, 0x4000, 0x40000
SET_PDEATHSIG, SET_DUMPABLE, SET_SUBREAPER, SET_NO_NEW_PRIVS = 1, 4, 36, 38
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
MEMORY, FILE, PROCESSES, CPU_SECONDS = 4 << 30, 10_000_000, 64, 300
LIBC = ctypes.CDLL(None, use_errno=True)


def _must(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def die_with_parent() -> None:
    """End this process when the one that started it ends; its grandchildren become its own children."""
    LIBC.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    LIBC.prctl(SET_SUBREAPER, 1, 0, 0, 0)


def limit(processes: bool) -> None:
    """Limits that the kernel keeps. The number of processes counts per user, so it needs a user of its own."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * resource.getpagesize() + MEMORY
    limits = {"AS": space, "FSIZE": FILE, "CORE": 0, "NOFILE": 256, "CPU": CPU_SECONDS}
    for name, value in {**limits, **({"NPROC": PROCESSES} if processes else {})}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    words = [word.encode() or None for word in (source, target, kind)]
    _must(LIBC.mount(*words, ctypes.c_ulong(flags), options.encode() or None))


def _hide(path: str) -> None:
    if os.path.isdir(path):
        _mount("none", path, "tmpfs", RDONLY, "size=4k")
    elif os.path.exists(path):
        _mount("/dev/null", path, flags=BIND)


def _mounts(work: str, hidden: Sequence[str]) -> None:
    """Everything read-only, the hidden paths empty, and `work` as a small disk in memory."""
    _mount("none", "/", flags=REC | PRIVATE)
    for path in hidden:
        _hide(path)
    attributes = (ctypes.c_uint64 * 4)(RDONLY)
    _must(LIBC.syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.sizeof(attributes)))
    for path in filter(os.path.isdir, (work, "/dev/shm")):
        _mount("none", path, "tmpfs", options="size=64m,mode=1777")
    LIBC.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(0), None)  # refused in some containers: not needed


def _drop_rights() -> None:
    LIBC.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _must(LIBC.capset(header, none))


@dataclass(frozen=True)
class Walls:
    """Which walls to build: `namespaces`, and the user to become (None: stay)."""

    namespaces: bool
    user: int | None = None

    @property
    def name(self) -> str:
        open_ = "no namespaces: network and files are open to student code, use the container"
        return "namespaces (no network, own processes, read-only files)" if self.namespaces else open_

    def enter(self, work: str, hidden: Sequence[str], started: Callable[[int], None]) -> None:
        """Continue inside the walls, in `work`; `started` gets the process id that the outside knows."""
        if self.user is not None:
            os.setgroups([])
            os.setresgid(self.user, self.user, self.user)
            os.setresuid(self.user, self.user, self.user)
            LIBC.prctl(SET_DUMPABLE, 1, 0, 0, 0)
        if self.namespaces:
            self._enter_namespaces(started)
            _mounts(work, hidden)
            _drop_rights()
        else:
            started(os.getpid())
        os.setsid()
        os.chdir(work)
        limit(processes=self.namespaces or self.user is not None)

    def _enter_namespaces(self, started: Callable[[int], None]) -> None:
        uid, gid = os.getuid(), os.getgid()
        _must(LIBC.unshare(NEWUSER | NEWPID | NEWNET | NEWNS | NEWIPC))
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path("/proc/self", name).write_text(text)
        child = os.fork()  # the first process of the new namespace: when it ends, all others in it end
        if child:
            started(child)
            os._exit(0)


def _holds(walls: Walls, work: str, hidden: Sequence[str], needed: Sequence[str]) -> bool:
    """Whether the walls can be built here and `needed` can be read inside, tried in a child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            walls.enter(work, hidden, lambda pid: None)
            if all(os.access(path, os.R_OK) for path in needed):
                os.write(write, b"yes")
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        return answer.read() == b"yes"


def best_walls(work: str, hidden: Sequence[str], needed: Sequence[str], namespaces: bool = True) -> Walls:
    """The strongest walls that can be built here. `needed` are files that students' code must be able to read."""
    users = [NOBODY, None] if os.getuid() == 0 else [None]
    tries = [Walls(inside, user) for inside in (True, False)[not namespaces :] for user in users]
    return next((walls for walls in tries if _holds(walls, work, hidden, needed)), tries[-1])
