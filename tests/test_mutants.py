"""tools/mutants.py: the table still matches the sources; lines are found once, copies are mutated, tests must fail."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import mutants  # noqa: E402
from mutant_table import MUTANTS  # noqa: E402
from mutants import check_table, choose, Mutant, mutate, Outcome, TableError  # noqa: E402

SOURCE = "def double(x):\n    y = x + x\n    return y\n\n\ndef triple(x):\n    y = 2 * x\n    return x + y\n"


@pytest.fixture
def project(tmp_path):
    """A project of one module, with one test file for it."""
    (tmp_path / "fsskit").mkdir(), (tmp_path / "tests").mkdir(), (tmp_path / "weights").mkdir()
    (tmp_path / "fsskit/__init__.py").write_text(""), (tmp_path / "fsskit/toy.py").write_text(SOURCE)
    (tmp_path / "tests/test_toy.py").write_text(
        "from fsskit.toy import double, triple\n\n\ndef test_double():\n    assert double(3) == 6\n\n\n"
        "def test_triple():\n    assert triple(2) > 4\n"
    )
    return tmp_path


# ---- the table


def test_the_table_matches_the_sources():
    assert check_table(ROOT, MUTANTS) == []


def test_enough_mutants_of_every_module():
    modules = [m.module for m in MUTANTS]
    for name in ("correlation", "distillation", "visual_prompts", "mask_decoder", "episodic", "fs_dino"):
        assert modules.count(name) >= 5, name
    assert all(m.why and "\n" not in m.why and "/" in m.name for m in MUTANTS)


def test_a_table_that_does_not_match(project):
    good = Mutant("toy/good", "w", "return y", "return -y")
    rows = [
        good,
        Mutant("toy/good", "w", "y = x + x", "y = x"),
        Mutant("toy/gone", "w", "y = x - x", "y = x"),
        Mutant("toy/same", "w", "y = x + x", "y = x + x"),
        Mutant("toy/syntax", "w", "y = x + x", "y = x +"),
        Mutant("none/missing", "w", "a", "b"),
        Mutant("toy/no-tests", "w", "y = x + x", "y = x", tests="tests/test_toy.py tests/test_other.py"),
    ]
    faults = check_table(project, rows)
    words = ["good: the name is taken", "gone: found 0 times", "same: changes nothing", "syntax: invalid syntax"]
    words += ["missing: [Errno 2]", "none/missing: tests/test_none.py is missing", "tests/test_other.py is missing"]
    assert len(faults) == len(words) and all(any(w in fault for fault in faults) for w in words)


# ---- replacing lines


def test_lines_are_replaced_with_their_indentation():
    assert mutate(SOURCE, Mutant("toy/a", "w", "y = x + x", "y = x\ny = y * 3")) == SOURCE.replace(
        "    y = x + x\n", "    y = x\n    y = y * 3\n"
    )
    block = Mutant("toy/b", "w", "def triple(x):\n    y = 2 * x", "def triple(x):\n    y = x")
    assert mutate(SOURCE, block) == SOURCE.replace("2 * x", "x")


@pytest.mark.parametrize("old, times", [("y = x", 0), ("y = 3 * x", 0), ("", 2), ("return", 0)])
def test_parts_of_lines_and_lines_that_occur_twice_are_refused(old, times):
    with pytest.raises(TableError, match=f"toy/a: found {times} times in fsskit/toy.py"):
        mutate(SOURCE, Mutant("toy/a", "w", old or "\n", "pass"))


def test_names_choose_mutants_and_modules():
    rows = [Mutant(name, "w", "a", "b") for name in ("a/one", "a/two", "b/one")]
    assert choose(rows, []) == rows and choose(rows, ["a"]) == rows[:2] and choose(rows, ["b/one", "a/two"]) == rows[1:]
    with pytest.raises(SystemExit, match="no mutant and no module c"):
        choose(rows, ["a", "c"])


# ---- running: the outcomes of the tests are given, since pytest in pytest would import fsskit twice


@pytest.fixture
def given(monkeypatch):
    """Outcomes by mutant name; '' for the unchanged package."""
    table = {"": Outcome(2, [], [], 0.1, "fine")}

    def outcomes(root, jobs, workers):
        yield from (table[m.name if m else ""] for m, _ in jobs)

    monkeypatch.setattr(mutants, "outcomes", outcomes)
    return table


ROWS = [Mutant("toy/a", "adds", "y = x + x", "y = x"), Mutant("toy/b", "twice", "y = 2 * x", "y = 3 * x")]


def test_every_mutant_must_be_caught(project, given, capsys):
    given |= {"toy/a": Outcome(0, ["test_double"], [], 1.0, ""), "toy/b": Outcome(1, ["test_triple"], [], 1.0, "")}
    assert mutants.main([], project, ROWS) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("tests/test_toy.py") and "2 passed" in out[0] and "test_double" in out[1]
    assert out[-1] == "2 of 2 mutants caught"


def test_survivors_and_broken_files_fail_the_command(project, given, capsys):
    given |= {"toy/a": Outcome(2, [], [], 1.0, ""), "toy/b": Outcome(0, [], ["tests.test_toy"], 1.0, "")}
    assert mutants.main([], project, ROWS) == 1
    out = capsys.readouterr().out
    assert "SURVIVES" in out and "BROKEN: tests.test_toy" in out and "0 of 2 mutants caught" in out


def test_the_unchanged_package_must_pass(project, given, capsys):
    given[""] = Outcome(1, ["test_double"], [], 0.1, "E assert 5 == 6")
    assert mutants.main(["toy/a"], project, ROWS) == 1
    assert "the unchanged package does not pass" in (out := capsys.readouterr().out) and "E assert 5 == 6" in out


def test_the_table_is_checked_first_and_can_be_listed(project, given, capsys):
    assert mutants.main([], project, [Mutant("toy/gone", "w", "no", "yes")]) == 1
    assert "found 0 times" in capsys.readouterr().out
    assert mutants.main(["--list", "toy/b"], project, ROWS) == 0
    assert capsys.readouterr().out.split() == ["toy/b", "twice"]


def test_a_real_run_in_a_copy(project):
    """In a process of its own: the test fails in the copy, and the project stays as it is."""
    import subprocess

    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import mutants; from pathlib import Path\n"
        "mutants.LIBRARIES = []\n"
        "rows = [mutants.Mutant('toy/a', 'w', 'y = x + x', 'y = x'),\n"
        "        mutants.Mutant('toy/b', 'w', 'y = 2 * x', 'y = 3 * x'),\n"
        "        mutants.Mutant('toy/c', 'w', 'y = x + x', 'y = x + x', 'tests/test_broken.py')]\n"
        "if __name__ == '__main__':\n"
        "    root = Path(sys.argv[2])\n"
        "    jobs = [(None, ['tests/test_toy.py']), *((m, m.files) for m in rows)]\n"
        "    for o in mutants.outcomes(root, jobs, 2): print(o.passed, o.failed, o.broken)\n"
    )
    (project / "tests/test_broken.py").write_text("import no_such_module\n")
    script = project / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script, ROOT / "tools", project], capture_output=True, text=True, cwd=project, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[:3] == ["2 [] []", "0 ['test_double'] []", "2 [] []"] and lines[3].startswith("0 [] ['")
    assert (project / "fsskit/toy.py").read_text() == SOURCE and not (project / "report.xml").exists()
