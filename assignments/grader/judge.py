"""The judge: holds secret, checks and expected values, and asks a servant (servant.py) for values.

Nothing that a servant sends is believed: messages have a size limit, cannot execute anything, and must come in time. A
servant that breaks a limit is ended with all that it started, and the next check gets a fresh one.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib.util
import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Iterable, NoReturn, Sequence

import numpy as np
import psutil
import torch
from fsskit import coursework
from fsskit.photos import FSSKitError

from . import Breach, Check, Question, Wrong, wire
from .servant import PLACE

COURSE = Path(__file__).resolve().parents[1]
MEMORY = 1_500_000_000  # bytes in use by a servant and all that it started
OUTPUT = 256_000  # bytes that one call may print
RESTARTS = 2  # fresh servants an exercise, after the first
MAX_CODE = 500_000  # characters of code in a submission
TICK = 0.05  # seconds between two looks at a servant
ERRORS = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)}
NOTHING = "no solution found"


# ---- a problem set -------------------------------------------------------------------------------------------------


@dataclass
class ProblemSet:
    """The instructor's side of a set: its notebook with solutions, and its checks."""

    folder: Path
    cells: list[coursework.Cell]
    questions: dict[str, Question]
    checks: list[Check]

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def tests(self) -> dict[str, str]:
        return {question: cell.source for question, cell in coursework.public_tests(self.cells).items()}

    @cached_property
    def setup(self) -> list[str]:
        return [cell.source for cell in coursework.setup_cells(self.cells)]

    @cached_property
    def references(self) -> dict[str, str]:
        return {cell.grade_id: cell.source for cell in self.cells if cell.kind == "code" and cell.solution}

    @cached_property
    def written(self) -> list[str]:
        return [cell.grade_id for cell in self.cells if cell.kind == "markdown" and cell.solution]

    @cached_property
    def locked(self) -> set[str]:
        return {cell.grade_id for cell in self.cells if cell.locked}

    def fingerprint(self) -> str:
        """Of everything that decides about marks."""
        files = (self.folder / "checks.py", self.folder / f"{self.name}.ipynb", *sorted(Path(__file__).parent.glob("*.py")))
        return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def load_set(folder: Path) -> ProblemSet:
    """The problem set in a folder such as assignments/ps1."""
    folder = Path(folder).resolve()
    path = folder / "checks.py"
    if not path.is_file():
        raise FSSKitError(f"{folder} is no problem set: it has no checks.py.")
    spec = importlib.util.spec_from_file_location(f"checks_of_{folder.name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    checks = [value for value in vars(module).values() if isinstance(value, Check)]
    return ProblemSet(folder, coursework.read_cells(folder / f"{folder.name}.ipynb"), module.QUESTIONS, checks)


# ---- the secret ----------------------------------------------------------------------------------------------------


def write_secret(path: Path) -> None:
    """A new secret of 32 random bytes, readable by its owner only. An old one is never overwritten."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32) + "\n")
    except FileExistsError:
        raise FSSKitError(f"{path} exists: keep it, or remove it when no submission was marked with it.") from None


def read_secret(path: Path) -> bytes:
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        raise FSSKitError(f"{path}: {error.strerror}; make a secret with `course.py secret {path}`.") from None
    if len(secret) < 32:
        raise FSSKitError(f"{path} holds {len(secret)} bytes, at least 32 are needed: use `course.py secret`.")
    return secret


def generator(secret: bytes, *key: Any) -> np.random.Generator:
    """Random numbers that follow from the secret and a name: the same for every student, foreseen by none."""
    name = "/".join(map(str, key)).encode()
    digest = hashlib.blake2b(name, key=hashlib.blake2b(secret).digest(), digest_size=32).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


# ---- processes -----------------------------------------------------------------------------------------------------


class Zygote:
    """The process that has imported everything and forks servants."""

    def __init__(self, setup: list[str], hidden: Iterable[Path] = (), namespaces: bool = True):
        hidden = [str(Path(path).resolve()) for path in (COURSE, COURSE.parent / ".git", *hidden)]
        needed = [os.__file__, torch.__file__, coursework.__file__]
        self.order = {"setup": setup, "hidden": hidden, "needed": needed, "namespaces": namespaces}
        self.start()

    def start(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with tempfile.TemporaryDirectory() as work:
            os.chmod(work, 0o777)
            self.process = self._launch(theirs)
            self.process.stdin.write(json.dumps({**self.order, "work": work}).encode() + b"\n")
            self.process.stdin.close()
            ready = self._hear(120)
        self.walls, self.names = ready["walls"], set(ready["names"])

    def _launch(self, theirs: socket.socket) -> subprocess.Popen:
        kept = "PATH HOME LANG LC_ALL TMPDIR VIRTUAL_ENV FSSKIT_DATA FSSKIT_WEIGHTS MPLCONFIGDIR XDG_CACHE_HOME".split()
        env = {name: os.environ[name] for name in kept if name in os.environ}
        env |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
        code = f"import os, sys; os.dup2({theirs.fileno()}, 3); sys.path.insert(0, {str(COURSE)!r})"
        command = [sys.executable, "-B", "-c", f"{code}; from grader.servant import main; main()"]
        with theirs:
            return subprocess.Popen(
                command, cwd="/", env=env, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()], start_new_session=True
            )

    def _hear(self, seconds: float) -> dict:
        ready, *_ = select.select([self.control], [], [], seconds)
        said = self.control.recv(1 << 20) if ready else b""
        if not said:
            self.close()
            raise FSSKitError("the process for students' code does not start: see its message above.")
        return json.loads(said)

    def fork(self, work: str) -> tuple[psutil.Process, socket.socket, int]:
        """A new servant: its process, the socket to it, and the pipe with what it prints."""
        if self.process.poll() is not None:  # without namespaces a student's code can end it
            self.close()
            self.start()
        mine, theirs = socket.socketpair()
        read, write = os.pipe()
        try:
            socket.send_fds(self.control, [json.dumps({"work": work}).encode()], [theirs.fileno(), write])
            return psutil.Process(self._hear(30)["pid"]), mine, read
        except (psutil.Error, OSError):
            raise Breach("the process ended") from None
        finally:
            theirs.close()
            os.close(write)

    def family(self) -> list[psutil.Process]:
        """Everything that servants started, orphans included."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def end_servants(self) -> None:
        for _ in range(20):
            members = self.family()
            for member in members:
                _quietly(member.kill)
            if not psutil.wait_procs(members, timeout=1)[1] and not self.family():
                return

    def close(self) -> None:
        self.end_servants()
        self.control.close()
        self.process.kill()
        self.process.wait()


def _quietly(action: Callable, default: Any = None) -> Any:
    """The action's result, or `default` when its process is gone."""
    try:
        return action()
    except (psutil.Error, OSError):
        return default


class Line:
    """The line to one servant: send a request, get the reply, or raise Breach with the limit that was broken."""

    def __init__(self, zygote: Zygote):
        self.zygote, self.work, self.looked, self.looks, self.talks = zygote, tempfile.mkdtemp(), 0.0, 0, True
        os.chmod(self.work, 0o777)
        self.process, self.sock, self.output = zygote.fork(self.work)
        self.sock.setblocking(False)
        os.set_blocking(self.output, False)

    def ask(self, request: dict, seconds: float) -> Any:
        self.sending, self.got, self.printed = memoryview(wire.pack(request)), bytearray(), 0
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise Breach("time limit")
            self._look()
            writers = [self.sock] if self.sending else []
            readers = [self.sock, *([self.output] if self.talks else [])]
            readable, writable, _ = select.select(readers, writers, [], min(TICK, left))
            if self.output in readable:
                self._drain()
            if writable:
                self.sending = self.sending[self._move(lambda: self.sock.send(self.sending[: 1 << 20])) :]
            if self.sock in readable:
                reply = self._reply()
                if reply is not None:
                    return reply

    def _move(self, action: Callable) -> Any:
        try:
            return action()
        except BlockingIOError:
            return 0
        except OSError:
            raise Breach("the process ended") from None

    def _reply(self) -> Any:
        chunk = self._move(lambda: self.sock.recv(1 << 20))
        if chunk == b"":
            raise Breach("the process ended")
        self.got += chunk or b""
        try:
            return wire.unpack(self.got)
        except wire.Unfit as error:
            raise Breach("output limit" if error.args[0] == "output limit" else "the process ended") from None

    def _drain(self) -> None:
        chunk = _quietly(lambda: os.read(self.output, 1 << 16))
        self.talks = chunk != b""
        self.printed += len(chunk or b"")
        if self.printed > OUTPUT:
            raise Breach("output limit")

    def _look(self) -> None:
        """Memory of the servant at every tick; of all that it started too, at every fifth (that takes longer)."""
        if time.monotonic() < self.looked + TICK:
            return
        self.looks, self.looked = self.looks + 1, time.monotonic()
        members = self.zygote.family() if self.looks % 5 == 0 else [self.process]
        if sum(_quietly(lambda: member.memory_info().rss, 0) for member in members) > MEMORY:
            raise Breach("memory limit")

    def close(self) -> None:
        _quietly(lambda: [member.kill() for member in (*self.process.children(recursive=True), self.process)])
        self.zygote.end_servants()
        self.sock.close()
        os.close(self.output)
        shutil.rmtree(self.work, ignore_errors=True)


# ---- the student, as a check sees one ------------------------------------------------------------------------------


class Student:
    """The student's function, in another process. Every call gives a value or raises; a check passes both on.

    student(*args, **kwargs)            the function's result
    student.after(*args)                (result, args as they are after the call)
    student.grad(args, wrt=0, weights)  gradient of (f(*args) * weights).sum() in args[wrt]; zeros when it is detached
    student.many(list_of_args, seconds) results of many calls that share one time limit; `student.seconds`: what they took
    student.error(*args, **kwargs)      name of the Python error that a call raises, or None
    student.board['miou'] = value       goes into the leader board
    """

    def __init__(self, zygote: Zygote, load: dict, seconds: float, patience: float = 1.0):
        self.zygote, self.load, self.load_seconds, self.patience = zygote, load, seconds, patience
        self.limit, self.seconds, self.board = seconds, 0.0, {}
        self.line, self.restarts, self.dead = None, RESTARTS, ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask({"op": "call", "args": args, "kwargs": kwargs})

    def after(self, *args: Any) -> tuple[Any, tuple]:
        answer = self._ask({"op": "after", "args": args})
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], tuple)):
            raise Wrong("wrong type")
        return answer

    def grad(self, args: Sequence[Any], wrt: int = 0, weights: Any = 1.0) -> torch.Tensor:
        return self._ask({"op": "grad", "args": tuple(args), "wrt": wrt, "weights": weights})

    def many(self, calls: Iterable[Sequence[Any]], seconds: float) -> list:
        start, results = time.monotonic(), []
        for args in calls:
            left = max(0.0, seconds - (time.monotonic() - start))
            results.append(self._ask({"op": "call", "args": tuple(args), "kwargs": {}}, left))
        self.seconds = time.monotonic() - start
        return results

    def error(self, *args: Any, **kwargs: Any) -> str | None:
        reply = self._reply({"op": "call", "args": args, "kwargs": kwargs}, self.limit)
        return _error_name(reply) if "error" in reply else None

    def test(self, source: str) -> None:
        self._ask({"op": "test", "source": source})

    def _ask(self, request: dict, seconds: float | None = None) -> Any:
        reply = self._reply(request, self.limit if seconds is None else seconds)
        if "value" not in reply:
            self._raise(reply)
        return reply["value"]

    def _raise(self, reply: dict) -> NoReturn:
        if reply.get("unfit") == "wrong type":
            raise Wrong("wrong type")
        if "unfit" in reply:
            raise Breach("output limit")
        name, line, lines = _error_name(reply), reply.get("line"), self.load["cells"][-1][1].count("\n") + 1
        if name == "MemoryError":
            raise Breach("memory limit")
        where = f" at line {line} of your cell" if type(line) is int and 1 <= line <= lines else ""
        raise Breach(f"raised {name}{where}")

    def _reply(self, request: dict, seconds: float) -> dict:
        """The reply of a living servant; after a breach the servant is ended, and the next request starts another."""
        if self.dead:
            raise Breach(self.dead)
        try:
            if self.line is None:
                self._start()
            reply = self.line.ask(request, seconds * self.patience)
        except Breach as breach:
            self._end(breach.args[0])
            raise
        if not isinstance(reply, dict):
            raise Wrong("wrong type")
        return reply

    def _start(self) -> None:
        """A servant with the student's cells. Cells that fail once are not tried again."""
        self.line = Line(self.zygote)
        try:
            reply = self.line.ask({"op": "load", **self.load}, self.load_seconds * self.patience)
            if not isinstance(reply, dict) or "value" not in reply:
                self._raise(reply if isinstance(reply, dict) else {})
        except (Breach, Wrong) as error:
            self.restarts = 0
            raise Breach(error.args[0]) from None

    def _end(self, reason: str) -> None:
        self.restarts -= 1
        if self.restarts < 0:
            self.dead = reason
        self.close()

    def close(self) -> None:
        if self.line:
            self.line.close()
        self.line = None


def _error_name(reply: dict) -> str:
    return reply["error"] if reply.get("error") in ERRORS else "Exception"


# ---- marking -------------------------------------------------------------------------------------------------------


@dataclass
class Judge:
    """Marks submissions of one problem set. `patience` scales all time limits."""

    set: ProblemSet
    secret: bytes
    hidden: Sequence[Path] = ()
    patience: float = 1.0
    known: dict | None = None  # marks by code, for the self-test, in which most exercises repeat
    zygote: Zygote | None = field(default=None, repr=False)

    def __enter__(self) -> "Judge":
        torch.set_num_threads(1)
        self.zygote = Zygote(self.set.setup, self.hidden)
        return self

    def __exit__(self, *_: Any) -> None:
        self.zygote.close()

    def mark(self, path: Path) -> dict:
        """Marks of one submission, whatever the file holds; JSON-able."""
        empty = {"questions": {}, "found": {}, "written": {}, "board": {}}
        result = {"set": self.set.name, "total": 0, "notes": [], "trouble": [], "walls": self.zygote.walls, **empty}
        try:
            cells = coursework.read_cells(path)
        except FSSKitError as error:
            cells = []
            result["notes"].append(str(error))
        own = coursework.own_code(cells, self.set.locked)
        if sum(len(cell.source) for cell in own) > MAX_CODE:
            own = []
            result["notes"].append(f"the notebook has more than {MAX_CODE:,} characters of code: it was not run")
        blocks = coursework.join_cells(own)
        for name in self.set.questions:
            self._mark_question(name, blocks, result)
        if cells and not any(result["found"].values()):
            result["notes"].append(f"it defines no function of {self.set.name}: is it the notebook of another set?")
        theirs = {cell.grade_id: cell.source for cell in cells if cell.kind == "markdown"}
        result["written"] = {name: theirs.get(name, "") for name in self.set.written}
        result["total"] = sum(row["points"] for row in result["questions"].values())
        return result

    def _mark_question(self, name: str, blocks: list, result: dict) -> None:
        question = self.set.questions[name]
        block = coursework.solution_block(blocks, question.function, name)
        result["found"][name] = block is not None
        if block is None or coursework.is_stub(block, question.function):
            rows = [(title, 0, points, NOTHING) for title, points in self._titles(name)]
        else:
            self._note(name, block, result["notes"])
            rows = self._run(name, self._parts(name, block, blocks), result)
        got = sum(points for _, points, _, _ in rows)
        result["questions"][name] = {"function": question.function, "points": got, "of": question.points, "checks": rows}

    @staticmethod
    def _note(name: str, block: coursework.Block, notes: list) -> None:
        if len(block.grade_ids) > 1:
            notes.append(f"{name}: the cell was split; its parts were joined")
        if block.magics:
            notes.append(f"{name}: lines that only Jupyter understands were left out")
        if name not in block.grade_ids:
            notes.append(f"{name}: found in another cell, by the name of the function")

    def _titles(self, name: str) -> list[tuple[str, int]]:
        hidden = [(check.title, check.points) for check in self.set.checks if check.question == name]
        return [("The public test", self.set.questions[name].public), *hidden]

    def _parts(self, name: str, block: coursework.Block, blocks: list) -> list[tuple[str, str]]:
        """(place, source) of the student's code for one exercise; the solution itself last, its helpers before it."""
        others = {question.function for key, question in self.set.questions.items() if key != name}
        parts = coursework.graft(blocks, [block], self.zygote.names | others)
        return [("helper", part) for part in parts if part != block.source] + [(PLACE, block.source)]

    def _load(self, name: str, parts: list) -> dict:
        others = [key for key in self.set.questions if key != name]
        return {
            "function": self.set.questions[name].function,
            "cells": [list(part) for part in parts],
            "others": [self.set.references[key] for key in others],
            "functions": [self.set.questions[key].function for key in others],
        }

    def _run(self, name: str, parts: list, result: dict) -> list:
        key = (name, *parts)
        if self.known is not None and key in self.known:
            return self.known[key]
        question = self.set.questions[name]
        student = Student(self.zygote, self._load(name, parts), question.seconds, self.patience)
        try:
            verdicts = [self._public(student, self.set.tests[name])]
            verdicts += [self._hidden(student, check, result) for check in self.set.checks if check.question == name]
        finally:
            student.close()
        result["board"].update({key: value for key, value in student.board.items() if np.isfinite(value)})
        rows = [
            (title, points if verdict == "passed" else 0, points, verdict)
            for (title, points), verdict in zip(self._titles(name), verdicts)
        ]
        if self.known is not None:
            self.known[key] = rows
        return rows

    @staticmethod
    def _public(student: Student, source: str) -> str:
        try:
            student.test(source)
        except (Breach, Wrong) as error:
            return "values differ" if error.args[0] == "raised AssertionError" else error.args[0]
        return "passed"

    def _hidden(self, student: Student, check: Check, result: dict) -> str:
        student.limit = check.seconds
        try:
            for case in range(check.cases):
                check.function(student, generator(self.secret, self.set.name, check.question, check.name, case))
        except (Breach, Wrong) as error:
            return error.args[0]
        except Exception:  # a check stumbled over a value that it did not expect: for the instructor's eyes
            result["trouble"].append(f"{check.question} {check.name}: {traceback.format_exc(limit=-3)}")
            return "wrong type"
        return "passed"
