"""The grader graded: submissions whose marks are known are marked, and every mark must be exact."""

from __future__ import annotations

import copy
import json
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

from tqdm import tqdm

from . import release
from .judge import NOTHING, Judge, ProblemSet, load_set
from .marks import feedback

HEADER = re.compile(r"^# %% (.+?) \| (.+?) \| (\d+)\s*$", re.M)
LEAST_WRONG = 6  # wrong solutions of each exercise
PUBLIC_SHARE = 0.3  # of an exercise's points that its public test may have at most
HURRY = 0.03  # of the usual time, where time is meant to run out


@dataclass(frozen=True)
class Case:
    """A submission and what it must get: points of every exercise, words in its notes, the reason of the first check."""

    name: str
    text: str
    marks: dict[str, int]
    note: str = ""
    reason: str = ""
    patience: float = 1.0


@dataclass(frozen=True)
class WrongSolution:
    name: str
    misconception: str
    kept: int
    source: str


def wrong_solutions(folder: Path, question: str) -> list[WrongSolution]:
    """The blocks `# %% name | misconception | points kept` of wrong/qN.py."""
    path = Path(folder) / "wrong" / f"{question}.py"
    parts = HEADER.split(path.read_text("utf-8")) if path.is_file() else [""]
    blocks = zip(*(parts[n::4] for n in (1, 2, 3, 4)))
    return [WrongSolution(name, why, int(kept), source.strip("\n")) for name, why, kept, source in blocks]


def set_faults(problem_set: ProblemSet) -> list[str]:
    """What a set's points, cells and wrong solutions lack, found without running anything."""
    asked = problem_set.questions
    faults = [] if sum(q.points for q in asked.values()) == 100 else ["the points of its exercises do not sum to 100"]
    faults += [f"check {c.name} is for {c.question}, which is no exercise" for c in problem_set.checks if c.question not in asked]
    for name, question in asked.items():
        faults += [f"{name}: {fault}" for fault in _question_faults(problem_set, name, question)]
    return [f"{problem_set.name}: {fault}" for fault in faults]


def _question_faults(problem_set: ProblemSet, name: str, question) -> Iterator[str]:
    hidden = [check for check in problem_set.checks if check.question == name]
    cells = {cell.grade_id: cell for cell in problem_set.cells}
    wrong = wrong_solutions(problem_set.folder, name)
    if question.public + sum(check.points for check in hidden) != question.points:
        yield "the points of its checks and its public test do not sum to its points"
    if question.public > PUBLIC_SHARE * question.points:
        yield "its public test has more than 30 % of the points"
    if name not in problem_set.references or name not in problem_set.tests:
        yield "it has no solution cell or no public test"
    elif cells[f"{name}_public"].points != question.public:
        yield "its public test has other points in the notebook than in checks.py"
    if len({check.title for check in hidden}) < len(hidden):
        yield "two checks have the same title"
    if len({w.name for w in wrong}) < LEAST_WRONG:
        yield f"it has {len(wrong)} wrong solutions, {LEAST_WRONG} are needed"
    yield from (f"wrong solution '{w.name}' keeps all points" for w in wrong if w.kept >= question.points)


# ---- submissions ---------------------------------------------------------------------------------------------------


class Maker:
    """Submissions made from the student's release, as a student would edit it."""

    def __init__(self, problem_set: ProblemSet):
        self.set, self.blank = problem_set, release.make_release(problem_set.folder)
        self.first = next(iter(problem_set.questions))
        self.function = problem_set.questions[self.first].function
        self.full = {name: question.points for name, question in problem_set.questions.items()}

    def lost(self, question: str, kept: int = 0) -> dict[str, int]:
        return {**self.full, question: kept}

    def solved(self, **other: str) -> str:
        """The release with the reference solutions in it, and with other code for some exercises."""
        return self.edited(lambda cells: None, **other)

    def edited(self, change: Callable[[list], None], **other: str) -> str:
        notebook = json.loads(self.blank)
        for cell in notebook["cells"]:
            name = cell["metadata"].get("nbgrader", {}).get("grade_id")
            if name in self.full:
                cell["source"] = {**self.set.references, **other}[name]
        change(notebook["cells"])
        return json.dumps(notebook)

    def place(self, cells: list, name: str) -> int:
        return next(n for n, cell in enumerate(cells) if cell["metadata"].get("nbgrader", {}).get("grade_id") == name)

    def body(self, *lines: str) -> str:
        """The first exercise's function with another body."""
        return "\n    ".join([f"def {self.function}(*args, **kwargs):", *lines])

    def without_tests(self, text: str) -> str:
        notebook = json.loads(text)
        for cell in notebook["cells"]:
            if cell["metadata"].get("nbgrader", {}).get("grade"):
                cell["source"] = "pass"
        return json.dumps(notebook)


def _duplicate(maker: Maker, cells: list) -> None:
    """A copy of the empty exercise at the end, with the same name."""
    original = json.loads(maker.blank)["cells"]
    cells.append(copy.deepcopy(original[maker.place(original, maker.first)]))


def _split(maker: Maker, cells: list) -> None:
    """The solution's cell in two halves with the same name, cut after the first indented line of its function."""
    place = maker.place(cells, maker.first)
    lines = cells[place]["source"].split("\n")
    start = next(n for n, line in enumerate(lines) if line.startswith(f"def {maker.function}"))
    ends = (n for n in range(start + 1, len(lines)) if lines[n - 1].rstrip().endswith(":"))
    cut = next(ends, start + 1) + 1
    halves = [{**copy.deepcopy(cells[place]), "source": "\n".join(part)} for part in (lines[:cut], lines[cut:])]
    cells[place : place + 1] = halves


def _retag(maker: Maker, cells: list) -> None:
    cells[maker.place(cells, maker.first)]["metadata"]["nbgrader"]["grade_id"] = "q99"


def _delete_test(maker: Maker, cells: list) -> None:
    del cells[maker.place(cells, f"{maker.first}_public")]


def ordinary_cases(maker: Maker) -> Iterator[Case]:
    """Submissions that deserve all points, or none."""
    first, full, none = maker.first, maker.full, dict.fromkeys(maker.full, 0)
    noise = maker.set.references[first] + "\nimport sys\nfor _ in range(99):\n    print('a warning', file=sys.stderr)"
    change = lambda action: maker.edited(lambda cells: action(maker, cells))
    yield Case("reference", maker.solved(), full, reason="passed")
    yield Case("blank", maker.blank, none, reason=NOTHING)
    yield Case("noise on standard error", maker.solved(**{first: noise}), full)
    yield Case("duplicated cell", change(_duplicate), full)
    yield Case("deleted test", change(_delete_test), full)
    yield Case("edited tests, solved", maker.without_tests(maker.solved()), full)
    yield Case("edited tests, empty", maker.without_tests(maker.blank), none)
    yield Case("split cell", change(_split), full, note="joined")
    yield Case("re-tagged cell", change(_retag), full, note="another cell")
    yield Case("not a notebook", "Dear teacher, my dog", none, note="not a notebook")
    foreign = {"cell_type": "code", "source": "def other(x):\n    return x", "metadata": {}}
    another = json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [foreign]})
    yield Case("another set's file", another, none, note="another set", reason=NOTHING)


def hostile_cases(maker: Maker) -> Iterator[Case]:
    """Submissions whose first exercise breaks something; the other exercises keep their points."""
    first, lost, reference = maker.first, maker.lost(maker.first), maker.set.references[maker.first]
    case = lambda name, source, reason, patience=1.0: Case(
        name, maker.solved(**{first: source}), lost, "", reason, patience
    )
    yield case("crash at import", reference + "\n1 / 0", "raised ZeroDivisionError at line")
    yield case("syntax error", f"def {maker.function}(:\n    return 1", "raised SyntaxError at line 1 of your cell")
    yield case("endless loop", maker.body("while True:", "    pass"), "time limit", HURRY)
    yield case("endless loop in the cell", reference + "\nwhile True:\n    pass", "time limit", HURRY)
    yield case("memory hog", maker.body("hoard = []", "while True: hoard.append(bytearray(b'x') * 60_000_000)"), "memory limit")
    yield case("output flood", maker.body("while True: print('x' * 10_000)"), "output limit")
    yield case("leaves the process", maker.body("import os", "os._exit(0)"), "the process ended")
    yield case("ends its parent", maker.body("import os", "os.kill(os.getppid(), 9)", "os._exit(0)"), "the process ended")


def wrong_cases(maker: Maker, quick: bool) -> Iterator[Case]:
    for question in maker.full:
        listed = wrong_solutions(maker.set.folder, question)
        for wrong in listed[:2] if quick else listed:
            yield Case(f"{question} {wrong.name}", maker.solved(**{question: wrong.source}), maker.lost(question, wrong.kept))


# ---- the run -------------------------------------------------------------------------------------------------------


def mark_case(judge: Judge, case: Case) -> list[str]:
    """What the grader gets wrong about a case."""
    judge.patience = case.patience
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{judge.set.name}.ipynb"
        path.write_text(case.text, "utf-8")
        result = judge.mark(path)
    marks = {name: row["points"] for name, row in result["questions"].items()}
    faults = [f"{name} has {marks[name]} points, not {want}" for name, want in case.marks.items() if marks[name] != want]
    said = next(iter(result["questions"].values()))["checks"][0][3]
    if not said.startswith(case.reason):
        faults.append(f"the first check says {said!r}, not {case.reason!r}")
    if case.note not in "; ".join(result["notes"]):
        faults.append(f"the notes say {result['notes']}, not {case.note!r}")
    secret = release.secret_lines(judge.set.folder)
    faults += [f"the feedback holds {leak}" for leak in release.leaks(secret, feedback(judge.set, result))]
    wrong = [f"{name}: {row['checks']}" for name, row in result["questions"].items() if marks[name] != case.marks[name]]
    return [f"{judge.set.name} {case.name}: {fault}" for fault in faults + (wrong + result["trouble"] if faults else [])]


def test_set(folder: Path, secret: bytes, quick: bool = False, progress: bool = True) -> tuple[int, list[str]]:
    """(number of cases, faults) of one set."""
    problem_set = load_set(folder)
    faults, maker = set_faults(problem_set), Maker(problem_set)
    faults += release.release_faults(folder, maker.blank, run=not quick)
    cases = [*ordinary_cases(maker), *hostile_cases(maker), *wrong_cases(maker, quick)]
    start = time.perf_counter()
    with Judge(problem_set, secret, known={}) as judge:
        for case in tqdm(cases, desc=problem_set.name, disable=not progress):
            faults += mark_case(judge, case)
        walls = judge.zygote.walls
    seconds = time.perf_counter() - start
    print(f"{problem_set.name}: {len(cases)} submissions in {seconds:.0f} s, {len(faults)} faults; {walls}", flush=True)
    return len(cases), faults
