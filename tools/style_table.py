"""The style table: how each notebook is made, in numbers, beside the targets.

    python tools/style_table.py [--nbs nbs] [--out benchmarks/results/style.md] [--measured FILE] [--strict]

Counted are the stored notebooks; nothing is executed. FILE holds measured seconds: JSON {"02_photos.ipynb": 12.3, ...},
or what `tools/notebooks.py` printed; without it, benchmarks/results/notebooks.json is used where it exists. A number
that misses its target is bold. --strict: exit code 1 when there is one.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parent))
import notebooks as runner  # noqa: E402

RESULTS = "benchmarks/results"
FRONT_PAGE = "index.ipynb"  # README's source: a page, not a lesson
ASSERTION = re.compile(r"(?:^|;|:)[ \t]*assert\b|\bassert_\w+\(", re.M)
LOCAL_PICTURE = re.compile(r"!\[[^\]]*\]\((?!\w+:)([^)\s]+)\)")
PRINTED = re.compile(r"^(\S+\.ipynb)\s+(?:\d+|-)\s+(\d+\.\d+)", re.M)


@dataclass(frozen=True)
class Column:
    """A number of a notebook: how it is called, written and judged."""

    key: str
    title: str
    form: Callable[[Any], str]
    meets: Callable[[Any], bool] = lambda value: True
    target: str = ""


def percent(share: float) -> str:
    """Rounded down, so that nothing looks as if it met a target that it misses."""
    return f"{int(100 * share + 1e-9)} %"


COLUMNS = (
    Column("cells", "cells", str, lambda n: 35 <= n <= 70, "35 to 70"),
    Column("prose", "share of prose", percent, lambda share: share >= 0.35, "at least 35 %"),
    Column("words", "words", "{:,}".format, lambda n: n >= 1000, "at least 1,000"),
    Column("pictures", "pictures", str, lambda n: n >= 4, "at least 4"),
    Column("asserted", "code cells with an assertion", percent, lambda share: share >= 0.25, "at least 25 %"),
    Column("longest", "longest cell (lines)", str, lambda n: n <= 25, "at most 25"),
    Column("megabytes", "pictures (MB)", "{:.2f}".format, lambda n: n <= 1, "at most 1"),
    Column("declared", "declared (s)", str, lambda n: n is not None and n <= runner.LONGEST, f"at most {runner.LONGEST}"),
    Column("measured", "measured (s)", lambda n: "" if n is None else f"{n:.1f}"),
)


def text(value: str | list[str]) -> str:
    """A source or an output, whichever way it is stored."""
    return value if isinstance(value, str) else "".join(value)


def picture_bytes(cell: dict, folder: Path) -> list[int]:
    """The size of each picture of a cell: shown as its result, or a file that its prose shows."""
    if cell["cell_type"] == "markdown":
        files = (folder / name for name in LOCAL_PICTURE.findall(text(cell["source"])))
        return [path.stat().st_size for path in files if path.is_file()]
    sizes = []
    for output in cell.get("outputs", []):
        kinds = {kind: text(data) for kind, data in output.get("data", {}).items() if kind.startswith("image/")}
        one = next(iter(kinds.items()), None)
        if one:
            sizes.append(len(one[1].encode()) if "svg" in one[0] else len(base64.b64decode(one[1])))
    return sizes


def measure(path: Path) -> dict[str, Any]:
    """All numbers of one notebook but the measured time."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    prose = [text(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    code = [text(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    words, code_words = (sum(len(source.split()) for source in part) for part in (prose, code))
    pictures = [size for cell in cells for size in picture_bytes(cell, path.parent)]
    found = runner.DECLARED.search("\n".join(prose))
    return {
        "cells": len(cells),
        "prose": words / max(1, words + code_words),
        "words": words,
        "pictures": len(pictures),
        "asserted": sum(bool(ASSERTION.search(source)) for source in code) / max(1, len(code)),
        "longest": max((len(source.splitlines()) for source in code), default=0),
        "megabytes": sum(pictures) / 1e6,
        "declared": int(found[1]) if found else None,
        "measured": None,
    }


def read_seconds(file: Path) -> dict[str, float]:
    """Measured seconds by notebook, from JSON or from a printed table."""
    content = file.read_text(encoding="utf-8")
    if content.lstrip().startswith("{"):
        return {name: float(seconds) for name, seconds in json.loads(content).items()}
    return {name: float(seconds) for name, seconds in PRINTED.findall(content)}


def measure_all(nbs: Path, seconds: dict[str, float]) -> dict[str, dict[str, Any]]:
    """The numbers of all notebooks, by name, in reading order."""
    names = [name for name in runner.names(nbs) if name != FRONT_PAGE]
    return {name: measure(nbs / name) | {"measured": seconds.get(name)} for name in names}


def misses(row: dict[str, Any]) -> list[str]:
    """The titles of the targets that a notebook misses."""
    return [column.title for column in COLUMNS if not column.meets(row[column.key])]


def written(column: Column, value: Any) -> str:
    shown = "-" if value is None else column.form(value)
    return shown if column.meets(value) else f"**{shown}**"


def line(*values: str) -> str:
    return f"| {' | '.join(values)} |"


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The table as Markdown; without any measured time, without that column."""
    columns = [c for c in COLUMNS if c.key != "measured" or any(row["measured"] is not None for row in rows.values())]
    lines = [line("notebook", *(c.title for c in columns)), line("---", *("---:" for _ in columns))]
    lines.append(line("*target*", *(f"*{c.target}*" if c.target else "" for c in columns)))
    for name, row in rows.items():
        lines.append(line(name.removesuffix(".ipynb"), *(written(c, row[c.key]) for c in columns)))
    return "\n".join(lines)


def summary(rows: dict[str, dict[str, Any]]) -> str:
    """What the table says, in a few sentences."""
    sums = {key: sum(row[key] or 0 for row in rows.values()) for key in ("cells", "words", "pictures", "megabytes", "declared")}
    missing = {name: found for name, row in rows.items() if (found := misses(row))}
    verdict = "All meet every target." if not missing else f"{len(missing)} miss a target (bold)."
    timed = [row["measured"] for row in rows.values() if row["measured"] is not None]
    return (
        f"{len(rows)} notebooks, {sums['cells']:,} cells, {sums['words']:,} words, {sums['pictures']} pictures "
        f"({sums['megabytes']:.1f} MB), {sums['declared'] / 60:.1f} minutes declared in all"
        + (f", {sum(timed) / 60:.1f} measured in {len(timed)} of them" if timed else "")
        + f". {verdict}"
    )


NOTES = """Share of prose: words of the text cells, of all words in cells. Code cells with an assertion: of all code cells, imports
and exported code counted too. Longest cell: of the code cells. The front page `index.ipynb` is no lesson and is left out."""


def page(rows: dict[str, dict[str, Any]]) -> str:
    title = "<!-- Made by `make style`. -->\n\n# The notebooks in numbers"
    return "\n\n".join([title, summary(rows), table(rows), NOTES]) + "\n"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nbs", type=Path, default=ROOT / "nbs")
    parser.add_argument("--out", type=Path, default=ROOT / RESULTS / "style.md")
    parser.add_argument("--measured", type=Path, help="measured seconds: JSON, or what tools/notebooks.py printed")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a target is missed")
    given, usual = parser.parse_args(words), ROOT / RESULTS / "notebooks.json"
    file = given.measured or (usual if usual.is_file() and given.nbs == ROOT / "nbs" else None)
    rows = measure_all(given.nbs, read_seconds(file) if file else {})
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page(rows), encoding="utf-8")
    print(summary(rows))
    for name, row in rows.items():
        if found := misses(row):
            print(f"{name}: {', '.join(found)}")
    return int(given.strict and any(map(misses, rows.values())))


if __name__ == "__main__":
    sys.exit(main())
