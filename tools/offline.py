"""Run a command that can reach nothing but the loopback address: python tools/offline.py CMD [ARG ...]

Linux: the command gets a network namespace of its own, so the kernel enforces the block for it and for all that it
starts. Where namespaces may not be made (other systems, some containers) a guard in Python's socket module is inherited
through PYTHONPATH: it stops Python programs only. The variable FSSKIT_OFFLINE tells the command which of the two is in
force: 'namespace' or 'guard'. Setting FSSKIT_OFFLINE=guard before the call asks for the guard.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from pathlib import Path

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1
GUARD = Path(__file__).resolve().parent / "netguard"
NAMES = {
    "namespace": "a network namespace (enforced by the kernel)",
    "guard": "the guard in Python's sockets (no namespaces here: programs other than Python are not stopped)",
}


def unshare(flags: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


def loopback_up() -> None:
    """Switch the new namespace's `lo` on; it starts switched off."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def enter_namespace() -> None:
    """Move this process into a fresh network namespace; as root without, else within a user namespace."""
    uid, gid = os.getuid(), os.getgid()
    try:
        unshare(CLONE_NEWNET)
    except OSError:
        unshare(CLONE_NEWUSER | CLONE_NEWNET)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path("/proc/self", name).write_text(text)
    loopback_up()


def works() -> bool:
    """Whether `enter_namespace` succeeds here, tried in a child so that a half-made one is thrown away."""
    if not sys.platform.startswith("linux"):
        return False
    child = os.fork()
    if child == 0:
        try:
            enter_namespace()
            with socket.create_server(("127.0.0.1", 0)) as server:
                socket.create_connection(server.getsockname(), timeout=5).close()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def mode() -> str:
    """'namespace' or 'guard': what `main` would use."""
    return "namespace" if os.environ.get("FSSKIT_OFFLINE") != "guard" and works() else "guard"


def main(command: list[str]) -> None:
    if not command:
        raise SystemExit(__doc__)
    os.environ["FSSKIT_OFFLINE"] = kind = mode()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if kind == "namespace":
        enter_namespace()
    else:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(GUARD), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
