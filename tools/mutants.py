"""`make mutants`: hand-made wrong versions of the exported code; a test must notice each of them.

    .venv/bin/python tools/mutants.py [NAME ...] [--jobs N] [--list]  NAME: of a mutant or module; default all

The table is tools/mutant_table.py. First the tests run on an unchanged copy of the package and must pass. Then each
mutant gets a copy of its own, in a temporary folder, in which its lines are replaced, and only its test files run. A
mutant is *caught* when a test fails. One that survives, or whose tests cannot even be collected, fails the command: the
first means that a test is missing, the second that the mutant is no misconception but a broken file. Every run is a
process of its own, forked from one that has imported torch and the other large libraries, but nothing of fsskit.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ["torch", "timm", "segment_anything", "sam2.build_sam", "accelerate", "hypothesis", "pytest", "einops"]
LIBRARIES += ["safetensors.torch", "matplotlib.pyplot", "pycocotools.mask"]  # imported once
COPIED = ("fsskit", "tests", "settings.ini", "setup.py", "pyproject.toml")
LINKED = ("weights", "nbs")  # with nbs/ it is a checkout, which ships the weights


@dataclass(frozen=True)
class Mutant:
    """A misconception, and the lines that it changes."""

    name: str  # module/what-is-wrong
    why: str  # the misconception, in words
    old: str  # whole lines of fsskit/MODULE.py, which occur there once; indentation does not count
    new: str  # what stands there instead, indented like `old`
    tests: str = ""  # test files, with a space between; '': tests/test_MODULE.py

    @property
    def module(self) -> str:
        return self.name.partition("/")[0]

    @property
    def files(self) -> list[str]:
        return self.tests.split() or [f"tests/test_{self.module}.py"]


class TableError(ValueError):
    """The table does not match the sources."""


def mutate(source: str, mutant: Mutant) -> str:
    """The source with the mutant's lines replaced; TableError unless they are found exactly once."""
    lines, wanted = source.splitlines(), [line.strip() for line in mutant.old.splitlines()]
    bare = [line.strip() for line in lines]
    places = [i for i in range(len(lines) - len(wanted) + 1) if bare[i : i + len(wanted)] == wanted]
    if len(places) != 1:
        where = f"found {len(places)} times in fsskit/{mutant.module}.py, wanted once"
        raise TableError(f"{mutant.name}: {where}:\n{mutant.old}")
    first = lines[places[0]]
    indent = first[: len(first) - len(first.lstrip())]
    new = [indent + line if line else line for line in mutant.new.splitlines()]
    return "\n".join(lines[: places[0]] + new + lines[places[0] + len(wanted) :]) + "\n"


def check_table(root: Path, mutants: list[Mutant]) -> list[str]:
    """What is wrong with the table: names, lines, test files, code that is no Python."""
    faults = [f"{m.name}: the name is taken" for i, m in enumerate(mutants) if m.name in [x.name for x in mutants[:i]]]
    for m in mutants:
        try:
            text = (root / "fsskit" / f"{m.module}.py").read_text(encoding="utf-8")
            if mutate(text, m) == text:
                faults.append(f"{m.name}: changes nothing")
            compile(mutate(text, m), m.name, "exec")
        except (OSError, TableError, SyntaxError) as error:
            faults.append(f"{m.name}: {error}")
        faults += [f"{m.name}: {name} is missing" for name in m.files if not (root / name).is_file()]
    return faults


def copy_project(root: Path, folder: Path) -> None:
    """What the tests need, in a folder of its own; nothing in the working tree is touched."""
    for name in COPIED:
        source, target = root / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copyfile(source, target)
    for name in LINKED:
        (folder / name).symlink_to(root / name)


@dataclass(frozen=True)
class Outcome:
    """What pytest said about a copy."""

    passed: int
    failed: list[str]  # tests that failed, by name
    broken: list[str]  # tests or files that could not even start
    seconds: float
    output: str


def enter(folder: Path) -> None:
    """Make this process use the copy: its package, its tests, no files elsewhere."""
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "FSSKIT_DATA": str(folder / "data")}
    sys.dont_write_bytecode = True
    os.chdir(folder)
    sys.path[:] = [str(folder), *(p for p in sys.path if Path(p or ".").resolve() not in (ROOT, ROOT / "tools"))]
    import fsskit

    if Path(fsskit.__file__).resolve().parents[1] != folder.resolve():
        raise SystemExit("mutants: the copy's package is not the one that is imported")


def run_tests(folder: Path, files: list[str], stop: bool) -> Outcome:
    """pytest on a copy, in this process."""
    enter(folder)
    import pytest

    report, log, started = folder / "report.xml", folder / "log.txt", time.perf_counter()
    words = ["-q", "--tb=line", "-p", "no:cacheprovider", f"--rootdir={folder}", f"--junitxml={report}", *files]
    with open(log, "w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = pytest.main(words + ["-x"] * stop)
    cases = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
    named = lambda kind: [case.get("name") for case in cases if case.find(kind) is not None]
    failed, broken = named("failure"), named("error")
    if code and not failed and not broken:
        broken = ["pytest itself"]
    passed = len(cases) - len(failed) - len(broken) - len(named("skipped"))
    return Outcome(passed, failed, broken, time.perf_counter() - started, log.read_text())


def try_tests(job: tuple[Mutant | None, list[str]], root: Path) -> Outcome:
    """Tests of a mutant on its own copy; without a mutant, on an unchanged copy and to the end."""
    mutant, files = job
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy_project(root, folder := Path(name))
        if mutant is not None:
            path = folder / "fsskit" / f"{mutant.module}.py"
            path.write_text(mutate(path.read_text(encoding="utf-8"), mutant), encoding="utf-8")
        try:
            return run_tests(folder, files, stop=mutant is not None)
        finally:
            os.chdir(root)


def outcomes(root: Path, jobs: list[tuple[Mutant | None, list[str]]], workers: int) -> Iterator[Outcome]:
    """One outcome a job, in order; each job has a fresh process."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    with context.Pool(workers, maxtasksperchild=1) as pool:
        yield from pool.imap(partial(try_tests, root=root), jobs, chunksize=1)


def control(root: Path, files: list[str], workers: int) -> list[str]:
    """Test files that do not pass on an unchanged copy, with the end of what pytest said."""
    faults = []
    for file, o in zip(files, outcomes(root, [(None, [file]) for file in files], workers)):
        print(f"{file:38s} {o.passed:4d} passed  {o.seconds:6.1f} s", flush=True)
        if not o.passed or o.failed or o.broken:
            faults.append(f"{file}: {', '.join(o.failed + o.broken) or 'no test'}\n{o.output[-2000:]}")
    return faults


def row(mutant: Mutant, outcome: Outcome) -> str:
    """One line of the table."""
    caught = outcome.failed[0] if outcome.failed else "BROKEN: " + outcome.broken[0] if outcome.broken else "SURVIVES"
    return f"{mutant.name:44s} {outcome.seconds:6.1f} s  {caught}"


def choose(mutants: list[Mutant], names: list[str]) -> list[Mutant]:
    """Those asked for, by their own name or their module's."""
    if unknown := [n for n in names if n not in {m.name for m in mutants} | {m.module for m in mutants}]:
        raise SystemExit(f"mutants: there is no mutant and no module {unknown[0]}; --list shows them")
    return [m for m in mutants if not names or m.name in names or m.module in names]


def main(words: list[str] | None = None, root: Path = ROOT, mutants: list[Mutant] | None = None) -> int:
    """Exit code 0 when every mutant is caught."""
    if mutants is None:
        from mutant_table import MUTANTS as mutants
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants or modules; default all")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="mutants at a time")
    parser.add_argument("--list", action="store_true", help="show the table and stop")
    args = parser.parse_args(words)
    chosen = choose(list(mutants), args.names)
    if args.list:
        print("\n".join(f"{m.name:44s} {m.why}" for m in chosen))
        return 0
    if faults := check_table(root, chosen):
        print("\n".join(faults))
        return 1
    if faults := control(root, sorted({file for m in chosen for file in m.files}), args.jobs):
        print("\n".join(["the unchanged package does not pass:", *faults]))
        return 1
    survived = 0
    for mutant, outcome in zip(chosen, outcomes(root, [(m, m.files) for m in chosen], args.jobs)):
        print(row(mutant, outcome), flush=True)
        survived += not outcome.failed
    print(f"{len(chosen) - survived} of {len(chosen)} mutants caught")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
