"""The student's side. The zygote imports everything once and runs the setup cells; for each exercise of each submission it
forks a servant, which runs the student's cells and answers calls. Neither of them ever holds the secret, a check or an
expected value. Started by judge.Zygote; it talks through file descriptor 3.
"""

from __future__ import annotations

import builtins
import gc
import json
import os
import random
import signal
import socket
import sys
import traceback
import types
from typing import Any

from . import sandbox, wire

PLACE = "your cell"  # under this name the student's cell is compiled: line numbers of errors count in it


# ---- the servant ---------------------------------------------------------------------------------------------------


def fixed_state() -> None:
    """What an earlier call may have changed, put back: random numbers, default dtype, gradients, threads."""
    import numpy as np
    import torch

    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)


def error_name(error: BaseException) -> str:
    """The nearest class of Python's own: a name that a student could choose must not reach the feedback."""
    if isinstance(error, RuntimeError) and "allocate memory" in str(error):
        return "MemoryError"
    return next(kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind)


def error_line(error: BaseException) -> int:
    """The last line of the student's cell that the error passed through; 0: none."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == PLACE]
    if isinstance(error, SyntaxError) and error.filename == PLACE:
        lines.append(error.lineno)
    return (lines or [0])[-1] or 0


def run(source: str, place: str, namespace: dict) -> None:
    exec(compile(source, place, "exec"), namespace)


class Servant:
    """The names that the student's function sees, and the requests that the judge may make."""

    def __init__(self, setup: dict):
        self.setup, self.names, self.function = setup, {}, ""

    def load(self, function: str, cells: list, others: list, functions: list) -> None:
        """Run the reference solutions of the other exercises in a world of their own, then the student's cells."""
        theirs = dict(self.setup)
        for source in others:
            run(source, "reference", theirs)
        given = {name: theirs[name] for name in functions}
        self.names, self.function = {**self.setup, **given}, function
        for place, source in cells:
            run(source, place, self.names)
        self.names.update(given)  # a student's own version of another exercise's function counts there, not here
        if not callable(self.names.get(function)):
            raise LookupError(function)

    def call(self, args: tuple, kwargs: dict) -> Any:
        return self.names[self.function](*args, **kwargs)

    def after(self, args: tuple) -> Any:
        return self.call(args, {}), args

    def grad(self, args: tuple, wrt: int, weights: Any) -> Any:
        """Gradient of the weighted sum of the results; zeros where the result does not depend on the argument."""
        import torch

        leaf = args[wrt].clone().requires_grad_()
        result = self.call((*args[:wrt], leaf, *args[wrt + 1 :]), {})
        pairs = zip(result, weights) if isinstance(result, (tuple, list)) else [(result, weights)]
        total = sum((one * weight).sum() for one, weight in pairs)
        if not isinstance(total, torch.Tensor) or not total.requires_grad:
            return torch.zeros_like(leaf)
        (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
        return torch.zeros_like(leaf) if gradient is None else gradient

    def test(self, source: str) -> None:
        run(source, "public test", dict(self.names))

    def answer(self, request: dict) -> dict:
        """The reply to one request. Whatever a student's code raises, `exit()` included, is a reply too."""
        fixed_state()
        try:
            return {"value": getattr(self, request.pop("op"))(**request)}
        except BaseException as error:
            return {"error": error_name(error), "line": error_line(error)}


def receive(sock: socket.socket) -> dict:
    data = bytearray()
    while True:
        chunk = sock.recv(1 << 20)
        if not chunk:
            os._exit(0)
        data += chunk
        request = wire.unpack(data)
        if request is not None:
            return request


def serve(sock: socket.socket, setup: dict) -> None:
    """Answer until the judge hangs up."""
    servant = Servant(setup)
    while True:
        reply = servant.answer(receive(sock))
        try:
            message = wire.pack(reply)
        except wire.Unfit as error:
            message = wire.pack({"unfit": error.args[0]})
        except BaseException:
            message = wire.pack({"unfit": "wrong type"})
        sock.sendall(message)


def become_servant(control: socket.socket, fds: list[int], work: str, hidden: list, walls: Any, setup: dict) -> None:
    """In the forked child: walls, limits, a clean environment, no open file but the socket and the output."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sock, output = fds
    walls.enter(work, hidden, lambda pid: control.send(json.dumps({"pid": pid}).encode()))
    for target in (1, 2):
        os.dup2(output, target)
    os.dup2(sock, 3)
    os.closerange(4, 4096)
    os.environ.clear()
    os.environ.update(HOME=work, TMPDIR=work, PATH="/usr/bin:/bin", OMP_NUM_THREADS="1", MPLBACKEND="Agg")
    serve(socket.socket(fileno=3), setup)


# ---- the zygote ----------------------------------------------------------------------------------------------------


def run_setup(sources: list[str]) -> dict:
    """The names of the setup cells; torch and fsskit are imported whether these ask for them or not."""
    import fsskit.coursework  # noqa: F401
    import numpy.random  # noqa: F401
    import torch

    torch.set_num_threads(1)
    namespace: dict = {"__name__": "__main__"}
    for number, source in enumerate(sources, 1):
        run(source, f"setup cell {number}", namespace)
    return namespace


def main() -> None:
    """Read the setup, then fork a servant for every request, until the judge hangs up."""
    control = socket.socket(fileno=3)
    sandbox.die_with_parent()
    order = json.loads(sys.stdin.readline())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path[:] = [path for path in sys.path if path not in order["hidden"]]
    sys.modules["__main__"] = types.ModuleType("__main__")
    setup = run_setup(order["setup"])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system takes away ended children
    walls = sandbox.best_walls(order["work"], order["hidden"], order["needed"], order["namespaces"])
    gc.freeze()
    control.send(json.dumps({"walls": walls.name, "names": sorted(setup)}).encode())
    while True:
        request, fds, *_ = socket.recv_fds(control, 65536, 2)
        if not request:
            os._exit(0)
        if os.fork() == 0:
            try:
                become_servant(control, fds, json.loads(request)["work"], order["hidden"], walls, setup)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        for fd in fds:
            os.close(fd)


if __name__ == "__main__":
    main()
