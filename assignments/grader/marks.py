"""A folder of submissions becomes marks: one result file each, then tables and feedback. Stop it at any time and go on later."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import re
import signal
from collections import deque
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Iterable

from fsskit.fetch import atomic_write
from tqdm import tqdm

from .judge import Judge, ProblemSet, load_set

CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Submission:
    """What one student handed in: a notebook, or the reason why there is none."""

    student: str
    path: Path | None
    reason: str = ""


def find_submissions(folder: Path, name: str) -> list[Submission]:
    """In IN/STUDENT/psN.ipynb, IN/STUDENT/psN/psN.ipynb (nbgrader), IN/STUDENT.ipynb or IN/STUDENT_psN.ipynb."""
    entries = sorted(entry for entry in Path(folder).iterdir() if not entry.name.startswith("."))
    return [_in_folder(entry, name) if entry.is_dir() else _as_file(entry, name) for entry in entries]


def _as_file(path: Path, name: str) -> Submission:
    student = re.sub(rf"[-_ ]{re.escape(name)}$", "", path.stem)
    if path.is_symlink() or path.suffix != ".ipynb":
        return Submission(student, None, f"{path.name} is not a notebook")
    return Submission(student, path)


def _in_folder(folder: Path, name: str) -> Submission:
    files = [path for path in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    files = [path for path in files if not path.is_symlink()]
    exact = [path for path in files if path.name == f"{name}.ipynb"]
    for found in (exact, [path for path in files if path.name.startswith(name)], files):
        if len(found) == 1:
            return Submission(folder.name, found[0])
    return Submission(folder.name, None, f"several notebooks, none of them {name}.ipynb" if files else "no notebook")


# ---- workers -------------------------------------------------------------------------------------------------------


def _serve(line: Connection, folder: str, secret: bytes, hidden: list[str]) -> None:
    """In a process of its own: a judge that marks what it is sent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that gives the work
    with Judge(load_set(Path(folder)), secret, hidden) as judge:
        while (path := line.recv()) is not None:
            line.send(judge.mark(Path(path)))


class Worker:
    """A judge in another process, so that not even a crash of the judge disturbs the other submissions."""

    def __init__(self, *order: Any):
        self.line, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_serve, args=(theirs, *order), daemon=True)
        self.process.start()
        theirs.close()
        self.submission: Submission | None = None

    def give(self, submission: Submission) -> None:
        self.submission = submission
        self.line.send(str(submission.path))

    def result(self) -> dict:
        """The marks of the submission, or those of one that ended the judge's own process."""
        try:
            return self.line.recv()
        except (EOFError, OSError):
            self.process.join(10)
            return {**nothing("it ended the grader's own process: look at it by hand"), "again": True}

    def close(self) -> None:
        if not self.submission and self.process.is_alive():
            self.line.send(None)
            self.process.join(10)
        self.process.terminate()
        self.process.join()


def mark_all(order: tuple, todo: Iterable[Submission], jobs: int) -> Iterable[tuple[Submission, dict]]:
    """(submission, result) as they are ready. A submission that ends the judge's own process gets a result that says so."""
    waiting = deque(todo)
    workers = [Worker(*order) for _ in range(min(jobs, len(waiting)))]
    try:
        while waiting or any(worker.submission for worker in workers):
            for worker in workers:
                if waiting and not worker.submission:
                    worker.give(waiting.popleft())
            ready = wait([worker.line for worker in workers if worker.submission], timeout=1)
            for place, worker in enumerate(workers):
                if worker.line in ready:
                    yield worker.submission, worker.result()
                    worker.submission = None
                    if not worker.process.is_alive():
                        workers[place] = Worker(*order)
    finally:
        for worker in workers:
            worker.close()


def nothing(reason: str) -> dict:
    """The result of a submission that could not be marked."""
    return {"total": 0, "questions": {}, "notes": [reason], "written": {}, "board": {}, "trouble": []}


# ---- a whole folder ------------------------------------------------------------------------------------------------


def key_of(submission: Submission, order: tuple, fingerprint: str) -> str:
    """Changes with the submission, the checks, the grader and the secret: an old result counts only when all are the same."""
    content = submission.path.read_bytes() if submission.path else submission.reason.encode()
    parts = [content, fingerprint.encode(), hashlib.sha256(order[1]).digest()]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _write(path: Path, text: str) -> None:
    with atomic_write(path, "w") as file:
        file.write(text)


def _old(path: Path, key: str) -> dict | None:
    try:
        result = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return result if result.get("key") == key else None


def grade(set_folder: Path, submissions: Path, out: Path, secret: bytes, hidden: Iterable[Path] = (), jobs: int = 2,
          again: bool = False, progress: bool = True) -> list[dict]:  # fmt: skip
    """Mark every submission of a set that has no valid result yet; write results, tables and feedback below `out`."""
    problem_set, out = load_set(set_folder), Path(out)
    order = (str(set_folder), secret, [str(path) for path in (submissions, out, *hidden)])
    found = find_submissions(submissions, problem_set.name)
    keys = {item.student: key_of(item, order, problem_set.fingerprint()) for item in found}
    place = lambda student: out / "results" / problem_set.name / f"{student}.json"
    results = {s: old for s, key in keys.items() if not again and (old := _old(place(s), key))}
    new = [item for item in found if item.student not in results]
    ready = [(item, nothing(item.reason)) for item in new if not item.path]
    with tqdm(total=len(found), initial=len(results), desc=problem_set.name, disable=not progress) as bar:
        for item, result in chain(ready, mark_all(order, [i for i in new if i.path], jobs)):
            key = "" if result.get("again") else keys[item.student]
            results[item.student] = {"student": item.student, "key": key, **result, "set": problem_set.name}
            _write(place(item.student), json.dumps(results[item.student], indent=1))
            bar.update()
    rows = [results[item.student] for item in found]
    write_tables(problem_set, rows, out)
    return rows


# ---- tables and feedback -------------------------------------------------------------------------------------------


def _csv(path: Path, header: list[str], rows: Iterable[list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write_tables(problem_set: ProblemSet, results: list[dict], out: Path) -> None:
    """marks, answers to written questions, leader board, and one page of feedback for each student."""
    name, asked = problem_set.name, list(problem_set.questions)
    points = lambda result: [result["questions"].get(question, {}).get("points", 0) for question in asked]
    rows = [[r["student"], name, *points(r), r["total"], "; ".join(r["notes"])] for r in results]
    _csv(out / f"marks_{name}.csv", ["student", "set", *asked, "total", "notes"], rows)
    _written(problem_set, results, out)
    board = sorted((r for r in results if r["board"]), key=lambda r: -r["board"].get("miou", 0))
    if board:
        columns = sorted({key for r in board for key in r["board"]})
        _csv(out / "leaderboard.csv", ["student", *columns], ([r["student"], *map(r["board"].get, columns)] for r in board))
    for result in results:
        _write(out / "feedback" / result["student"] / f"{name}.md", feedback(problem_set, result))


def _written(problem_set: ProblemSet, results: list[dict], out: Path) -> None:
    """Answers by question, to be read one after the other, and a table with an empty column for their marks."""
    if not problem_set.written:
        return
    answers = {q: {r["student"]: r["written"].get(q, "").strip() for r in results} for q in problem_set.written}
    rows = [[student, q, len(text.split()), ""] for q, texts in answers.items() for student, text in texts.items()]
    if not (out / f"written_{problem_set.name}.csv").exists():  # never over marks that somebody typed in
        _csv(out / f"written_{problem_set.name}.csv", ["student", "question", "words", "mark"], rows)
    for question, texts in answers.items():
        pages = [f"## {student}\n\n{text or '(no answer)'}\n" for student, text in texts.items()]
        _write(out / "written" / problem_set.name / f"{question}.md", f"# {question}\n\n" + "\n".join(pages))


def feedback(problem_set: ProblemSet, result: dict) -> str:
    """What the student gets: titles of checks, points, and one of a few fixed reasons. Nothing of inputs or values."""
    lines = [f"# {problem_set.name}: {result['total']} of 100 points", ""]
    lines += [f"- {note}" for note in result["notes"]] + [""] * bool(result["notes"])
    for name, row in result["questions"].items():
        lines += [f"## {name} `{row['function']}`: {row['points']} of {row['of']}", "", "| check | points | result |"]
        lines += ["|---|--:|---|", *(f"| {t} | {got} of {of} | {why} |" for t, got, of, why in row["checks"]), ""]
    if problem_set.written:
        lines += ["The written questions are marked by hand.", ""]
    return "\n".join(lines)
