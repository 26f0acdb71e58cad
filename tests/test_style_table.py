"""The style table counts what is there, marks what misses its target, and reads measured times."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, writes
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import style_table as style  # noqa: E402

RUN_TIME = "**Run time:** at most 20 s on 2 CPU cores"
GOOD = {"cells": 40, "prose": 0.5, "words": 1200, "pictures": 5, "asserted": 0.5, "longest": 20, "megabytes": 0.5,
        "declared": 30, "measured": None}


def png(side: int) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((side, side), 50).save(file, "PNG")
    return file.getvalue()


def shown(content: bytes):
    """A picture as the result of a cell, with the text that always comes with it."""
    return new_output("execute_result", {"image/png": base64.b64encode(content).decode() + "\n",
                                         "text/plain": "<Figure>"})


@pytest.fixture
def nbs(tmp_path):
    """Two lessons with known numbers, and what is no lesson."""
    big, small = png(30), png(10)
    (tmp_path / "nbs/tutorials").mkdir(parents=True)
    (tmp_path / "nbs/picture.png").write_bytes(small)
    cells = [
        new_markdown_cell("# One two three"),  # 4 words
        new_markdown_cell(RUN_TIME + "\n\n![a](picture.png) ![b](https://x.org/b.png) ![c](gone.png)"),  # 10 + 3 words
        new_code_cell("x = 1\n\nassert x == 1", outputs=[shown(big), new_output("stream", text="assert")]),  # 7 words
        new_code_cell("# we assert nothing here\nassertion = 2"),  # 8 words
        new_code_cell("if x: assert x\nnp.testing.assert_allclose(x, 1)"),  # 6 words
        new_code_cell("y", outputs=[new_output("display_data", {"image/svg+xml": "<svg>é</svg>"})]),
    ]
    write = lambda name, cells: (tmp_path / "nbs" / name).write_text(writes(new_notebook(cells=cells)),
                                                                     encoding="utf-8")
    write("02_one.ipynb", cells)
    write("tutorials/two.ipynb", [new_markdown_cell("no time is declared")])
    for name in ("index.ipynb", "_draft.ipynb"):
        write(name, cells)
    return tmp_path / "nbs", len(big) + len(small) + len("<svg>é</svg>".encode())


def test_what_is_counted(nbs):
    folder, size = nbs
    rows = style.measure_all(folder, {"02_one.ipynb": 12.34})
    assert list(rows) == ["02_one.ipynb", "tutorials/two.ipynb"]
    one = rows["02_one.ipynb"]
    assert one["prose"] == pytest.approx(17 / (17 + 7 + 8 + 6 + 1)) and one["asserted"] == 2 / 4
    assert one["megabytes"] == pytest.approx(size / 1e6)
    rest = {key: one[key] for key in ("cells", "words", "pictures", "longest", "declared", "measured")}
    assert rest == {"cells": 6, "words": 17, "pictures": 3, "longest": 3, "declared": 20, "measured": 12.34}
    two = rows["tutorials/two.ipynb"]
    assert (two["words"], two["prose"], two["asserted"], two["longest"], two["declared"]) == (4, 1, 0, 0, None)


@pytest.mark.parametrize("change, title", [
    ({"cells": 34}, "cells"), ({"cells": 71}, "cells"), ({"prose": 0.349}, "share of prose"), ({"words": 999}, "words"),
    ({"pictures": 3}, "pictures"), ({"asserted": 0.249},
                                    "code cells with an assertion"), ({"longest": 26}, "longest cell (lines)"),
    ({"megabytes": 1.01}, "pictures (MB)"), ({"declared": 91}, "declared (s)"),
    ({"declared": None}, "declared (s)")])  # fmt: skip
def test_what_misses_a_target(change, title):
    assert style.misses(GOOD | change) == [title]


def test_the_targets_themselves_are_met():
    edges = [{"cells": 35}, {"cells": 70}, {"prose": 0.35, "words": 1000, "pictures": 4, "asserted": 0.25,
                                            "longest": 25, "megabytes": 1, "declared": 90}]
    assert [style.misses(GOOD | edge) for edge in edges] == [[], [], []]


def test_the_table_marks_what_misses():
    text = style.table({"a.ipynb": GOOD | {"prose": 0.349, "declared": None},
                        "tutorials/b.ipynb": GOOD | {"measured": 12.34}})
    head, rule, targets, a, b = text.splitlines()
    assert head.endswith("| declared (s) | measured (s) |")
    assert targets.startswith("| *target* | *35 to 70* | *at least 35 %* |")
    assert a == "| a | 40 | **34 %** | 1,200 | 5 | 50 % | 20 | 0.50 | **-** | - |"
    assert b == "| tutorials/b | 40 | 50 % | 1,200 | 5 | 50 % | 20 | 0.50 | 30 | 12.3 |"
    assert len({row.count("|") for row in text.splitlines()}) == 1
    assert "measured" not in style.table({"a.ipynb": GOOD})


def test_the_summary_adds_up():
    rows = {"a": GOOD | {"measured": 30.0}, "b": GOOD | {"cells": 80, "words": 1}}
    expected = (
        "2 notebooks, 120 cells, 1,201 words, 10 pictures (1.0 MB), 1.0 minutes declared in all, 0.5 measured in 1 of "
        "them. 1 miss a target (bold)."
    )
    assert style.summary(rows) == expected
    assert style.summary({"a": GOOD}).endswith("All meet every target.")


def test_measured_seconds_come_from_json_or_from_a_printed_table(tmp_path):
    (tmp_path / "a.json").write_text('{"02_one.ipynb": 3}')
    printed = (
        "notebook   declared measured  (s)\n02_one.ipynb      20     3.0  ok\n"
        "tutorials/two.ipynb   9   11.5  FAILED: slower\n03_x.ipynb   -   -  FAILED: no line\n"
    )
    (tmp_path / "b.txt").write_text(printed)
    assert style.read_seconds(tmp_path / "a.json") == {"02_one.ipynb": 3.0}
    assert style.read_seconds(tmp_path / "b.txt") == {"02_one.ipynb": 3.0, "tutorials/two.ipynb": 11.5}


def test_the_command(nbs, tmp_path):
    folder, out = nbs[0], tmp_path / "results/style.md"
    (tmp_path / "s.json").write_text(json.dumps({"02_one.ipynb": 7.0}))
    command = [sys.executable, ROOT / "tools/style_table.py", "--nbs", folder, "--out", out, "--measured",
               tmp_path / "s.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "02_one.ipynb: cells, words, pictures" in done.stdout
    rows = style.measure_all(folder, {"02_one.ipynb": 7.0})
    assert out.read_text() == style.page(rows) and "| 7.0 |" in out.read_text()
    assert style.main(["--nbs", str(folder), "--out", str(out), "--strict"]) == 1 and "measured" not in out.read_text()


def test_the_projects_notebooks_can_be_counted():
    rows = style.measure_all(ROOT / "nbs", {})
    assert len(rows) >= 38 and all(row["words"] and row["cells"] for row in rows.values())
