"""The student's notebook: made with nbgrader's own preprocessors, the same bytes every time, and proven to hold no answer."""

from __future__ import annotations

import html
import logging
import re
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Iterable, Iterator

import nbformat
from fsskit import coursework
from fsskit.photos import FSSKitError
from nbgrader import preprocessors as steps

MIN_LENGTH = 20  # characters of a line that is looked for; shorter ones are everybody's
STUB = "raise NotImplementedError  # your code here"
ANSWER = "*Your answer, in your own words.*"
PRINTABLE = re.compile(rb"[\t\n\r\x20-\x7e]{%d,}" % MIN_LENGTH)  # what a person can read in a binary file
TAG = re.compile(r"<[^>]*>")
REGION = re.compile(r"^[^\n]*### BEGIN SOLUTION.*?### END SOLUTION[^\n]*$", re.S | re.M)


def make_release(folder: Path) -> str:
    """The text of the student's notebook for the set in a folder such as assignments/ps1."""
    notebook, resources = nbformat.read(Path(folder) / f"{Path(folder).name}.ipynb", 4), {}
    for step in _steps():
        step.log.setLevel(logging.CRITICAL)
        notebook, resources = step.preprocess(notebook, resources)
    notebook.metadata["language_info"] = {"name": "python"}
    return nbformat.writes(notebook) + "\n"


def _steps() -> Iterator:
    yield steps.LockCells()
    yield steps.ClearSolutions(code_stub={"python": STUB}, text_stub=ANSWER)
    for kind in (steps.ClearOutput, steps.CheckCellMetadata, steps.ClearHiddenTests, steps.ClearMarkScheme):
        yield kind()
    yield steps.ComputeChecksums()
    yield steps.CheckCellMetadata()


# ---- the proof -----------------------------------------------------------------------------------------------------


def normal(text: str) -> str:
    """Without what an editor may change: spaces."""
    return "".join(text.split())


def lines_of(text: str) -> set[str]:
    """Lines that are long enough to be somebody's; imports are everybody's."""
    lines = (normal(line) for line in text.splitlines() if not line.lstrip().startswith(("import ", "from ")))
    return {line for line in lines if len(line) >= MIN_LENGTH}


def secret_lines(folder: Path) -> dict[str, set[str]]:
    """By origin: lines of solutions, checks, wrong solutions and sample answers that students are not meant to see.

    Lines that the exercise's own code shows anyway (stub, setup, public test) are none; the texts around it excuse nothing.
    """
    folder = Path(folder)
    cells = coursework.read_cells(folder / f"{folder.name}.ipynb")
    shown = set().union(*(lines_of(REGION.sub("", cell.source)) for cell in cells if cell.kind == "code"))
    origins = {f"solution {c.grade_id}": "\n".join(REGION.findall(c.source)) for c in cells if c.solution}
    files = [folder / "checks.py", folder / "written.md", *sorted((folder / "wrong").glob("*.py"))]
    origins |= {str(path.relative_to(folder)): path.read_text("utf-8") for path in files if path.is_file()}
    return {origin: lines_of(text) - shown for origin, text in origins.items()}


def leaks(secret: dict[str, set[str]], text: str, least: int = 1) -> list[str]:
    """Origins of which `text` holds at least `least` lines."""
    text = normal(text)
    found = {origin: sorted(line for line in lines if line in text) for origin, lines in secret.items()}
    return [f"{origin}: {lines[0][:60]}" for origin, lines in found.items() if len(lines) >= least]


def texts_of(path: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of every file below a folder, in a wheel, in an sdist, or the file itself.

    Of weights, what can be read; of web pages, also what a browser shows: coloured code has a tag around every word.
    """

    def read(data: bytes) -> str:
        data = b"\n".join(PRINTABLE.findall(data)) if b"\0" in data else data
        text = data.decode("utf-8", "ignore").replace("\\n", "\n").replace('\\"', '"')
        return text + html.unescape(TAG.sub("", text)) if text.lstrip()[:9].lower() in ("<!doctype", "<html>") else text

    if path.is_dir():
        for inner in sorted(item for item in path.rglob("*") if item.is_file()):
            yield from texts_of(inner)
    elif path.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(path) as archive:
            yield from ((f"{path.name}:{name}", read(archive.read(name))) for name in archive.namelist())
    elif path.name.endswith(".tar.gz"):
        with tarfile.open(path) as archive:
            files = [member for member in archive.getmembers() if member.isfile()]
            yield from ((f"{path.name}:{m.name}", read(archive.extractfile(m).read())) for m in files)
    else:
        yield str(path), read(path.read_bytes())


def prove(folders: Iterable[Path], paths: Iterable[Path], least: int = 3) -> list[str]:
    """Files below `paths`, or in these archives, that hold answers of the sets; three lines of one origin are no accident."""
    secret = {f"{folder.name} {key}": lines for folder in folders for key, lines in secret_lines(folder).items()}
    texts = ((name, text) for path in paths for name, text in texts_of(Path(path)))
    return [f"{name} holds {leak}" for name, text in texts for leak in leaks(secret, text, least)]


def release_faults(folder: Path, text: str, run: bool = True) -> list[str]:
    """What is wrong with a release: answers in it, other bytes the second time, a stub that does not say so when it runs."""
    name = Path(folder).name
    faults = [f"{name}: the release holds {leak}" for leak in leaks(secret_lines(folder), text.replace('\\"', '"'))]
    if text != make_release(folder):
        faults.append(f"{name}: the release is not the same when it is made again")
    return faults + (_run_faults(name, text) if run else [])


def _run_faults(name: str, text: str) -> list[str]:
    """Every exercise must run up to its NotImplementedError: the setup works and nothing is solved."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{name}.ipynb"
        path.write_text(text, "utf-8")
        report = coursework.check_notebook(path, progress=False)
    wrong = [row for row in report.rows if not row.why.startswith("NotImplementedError")]
    faults = [f"{name} {row.question}: the stub gives {row.why or 'a pass'!r}, not NotImplementedError" for row in wrong]
    return faults + [f"{name}: {warning}" for warning in report.warnings]


def write_release(folder: Path, out: Path, run: bool = True) -> Path:
    """Make, prove and write OUT/psN/psN.ipynb; an error names what is wrong, and nothing is written then."""
    text = make_release(folder)
    faults = release_faults(folder, text, run)
    if faults:
        raise FSSKitError("no release was written. " + "; ".join(faults) + ".")
    path = Path(out) / Path(folder).name / f"{Path(folder).name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path
