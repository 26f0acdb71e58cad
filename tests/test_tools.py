"""The gates of `make test` find what they are there to find, and the network block blocks."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import build_readme  # noqa: E402
import check  # noqa: E402
import env as environments  # noqa: E402
import notebooks as runner  # noqa: E402
import offline  # noqa: E402

RUN_TIME = "**Run time:** at most 30 s on 2 CPU cores"
NAMESPACES = offline.works()


@pytest.fixture(autouse=True)
def children_without_coverage(monkeypatch):
    """Nothing of fsskit/ is measured in the programs that these tests start."""
    for name in [name for name in os.environ if name.startswith("COV")]:
        monkeypatch.delenv(name)


def write_notebook(path: Path, *code: str, text: str = RUN_TIME) -> Path:
    """A cleaned notebook with one markdown cell and the code cells."""
    cells = [new_markdown_cell(text, id="text"), *(new_code_cell(source, id=f"c{n}") for n, source in enumerate(code))]
    nb = new_notebook(
        cells=cells, metadata={"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A project of two modules, exported, cleaned, in git."""
    tmp_path = tmp_path_factory.mktemp("made")
    for name in ("settings.ini", "pyproject.toml", "setup.py"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    write_notebook(tmp_path / "nbs/01_one.ipynb", "#| default_exp one", "#| export\ndef one(): return 1")
    write_notebook(
        tmp_path / "nbs/02_two.ipynb",
        "#| default_exp two",
        "#| export\nfrom fsskit.one import one\ndef two(): return 2 * one()",
    )
    write_notebook(tmp_path / "nbs/index.ipynb", text="# A page\n\n[one](01_one.ipynb)\n\n" + RUN_TIME)
    (tmp_path / "fsskit").mkdir()
    subprocess.run([check.script("nbdev_clean")], cwd=tmp_path, check=True)
    subprocess.run([check.script("nbdev_export")], cwd=tmp_path, check=True)
    (tmp_path / "README.md").write_text(build_readme.readme(tmp_path))
    subprocess.run("git init -q . && git add .", shell=True, cwd=tmp_path, check=True)
    return tmp_path


@pytest.fixture
def tree(made, tmp_path):
    """A copy of that project to spoil."""
    return shutil.copytree(made, tmp_path / "tree")


def edit(path: Path, change) -> None:
    nb = nbformat.read(path, as_version=4)
    change(nb)
    nbformat.write(nb, path)


# ---- the network block

CONNECT = """
import socket, sys, time
started = time.time()
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
    print('connected')
except OSError:
    print('refused' if time.time() - started < 2 else 'slow')
"""
CHILD = "import subprocess, sys; subprocess.run(sys.argv[1:])"
GRANDCHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}, *sys.argv[1:]])"
SERVE = """
import socket, subprocess, sys
server = socket.create_server(('127.0.0.1', 0))
subprocess.run([sys.executable, '-c', sys.argv[1], '127.0.0.1', str(server.getsockname()[1])])
"""


def in_block(mode: str, *command: str) -> str:
    """Output of a command inside the blocked runner; mode 'namespace' or 'guard'."""
    if mode == "namespace" and not NAMESPACES:
        pytest.skip("no network namespaces may be made here")
    environ = {**os.environ, "FSSKIT_OFFLINE": mode}
    done = subprocess.run(
        [sys.executable, ROOT / "tools/offline.py", *command], env=environ, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


@pytest.mark.parametrize("mode", ["namespace", "guard"])
def test_child_of_a_child_reaches_no_address_outside(mode):
    assert (
        in_block(mode, sys.executable, "-c", GRANDCHILD, sys.executable, "-c", CONNECT, "192.0.2.1", "80") == "refused"
    )


@pytest.mark.parametrize("mode", ["namespace", "guard"])
def test_child_of_a_child_resolves_no_name(mode):
    assert (
        in_block(mode, sys.executable, "-c", GRANDCHILD, sys.executable, "-c", CONNECT, "example.com", "80")
        == "refused"
    )


@pytest.mark.parametrize("mode", ["namespace", "guard"])
def test_a_server_on_the_loopback_address_is_reached_inside(mode):
    assert in_block(mode, sys.executable, "-c", SERVE, CONNECT) == "connected"


def test_a_program_that_is_not_python_is_blocked_too():
    assert (
        in_block(
            "namespace",
            "bash",
            "-c",
            "bash -c 'exec 3<>/dev/tcp/192.0.2.1/80' 2>/dev/null && echo connected || echo refused",
        )
        == "refused"
    )


def test_the_command_is_told_how_it_is_blocked_and_by_whom():
    look = "import os; print(os.environ['FSSKIT_OFFLINE'], os.environ['HF_HUB_OFFLINE'], os.getuid())"
    for mode in ["guard", *["namespace"] * NAMESPACES]:
        assert in_block(mode, sys.executable, "-c", look).split() == [mode, "1", str(os.getuid())]


def test_a_namespace_has_a_loopback_of_its_own():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert (
            in_block("namespace", sys.executable, "-c", CONNECT, "127.0.0.1", str(server.getsockname()[1])) == "refused"
        )


# ---- clean


def test_a_clean_tree_passes_clean_export_and_order(tree):
    assert check.gate_clean(tree) == "3 notebooks"
    assert check.gate_export(tree).startswith("4 files")
    assert check.order_faults(tree) == []


def test_an_execution_count_is_found(tree):
    edit(tree / "nbs/01_one.ipynb", lambda nb: nb.cells[1].update(execution_count=3))
    with pytest.raises(check.Failed, match="01_one.ipynb: nbdev_clean changes it"):
        check.gate_clean(tree)


def test_widget_state_is_found(tree):
    edit(tree / "nbs/01_one.ipynb", lambda nb: nb.metadata.update(widgets={"state": {}}))
    with pytest.raises(check.Failed, match="widget state"):
        check.gate_clean(tree)


@pytest.mark.parametrize(
    "text, bad",
    [
        ("saved /home/ann/x.png", True),
        ("File /tmp/ipykernel_1/2.py", True),
        ("'/root/.cache/hub'", True),
        ("/tmp/tmp8a3_x/y.png", True),
        ("the member '/tmp/outside.txt' is refused", False),
        ("C:\\Users\\ann\\x.png", True),
        ("saved data/home/x.png", False),
        ("a/tmp/b", False),
        ("https://host/home/x", False),
        ("1/2 of /work", False),
    ],
)
def test_paths_of_a_machine_in_outputs(tree, text, bad):
    output = new_output("stream", name="stdout", text=text)
    edit(tree / "nbs/01_one.ipynb", lambda nb: nb.cells[1].update(outputs=[output]))
    assert any("path of a machine" in fault for fault in check.unclean(tree / "nbs/01_one.ipynb")) == bad


# ---- export


@pytest.mark.parametrize(
    "change, what",
    [
        (lambda t: (t / "fsskit/stray.py").write_text("x = 1\n"), "fsskit/stray.py: no notebook makes it"),
        (lambda t: (t / "fsskit/one.py").write_text("x = 1\n"), "fsskit/one.py: differs from its notebook"),
        (lambda t: (t / "fsskit/two.py").unlink(), "fsskit/two.py: missing"),
        (lambda t: (t / "nbs/02_two.ipynb").unlink(), "fsskit/two.py: no notebook makes it"),
        (lambda t: (t / "fsskit/__init__.py").write_text('__version__ = "9.9"\n'), "fsskit/__init__.py: differs"),
        (lambda t: (t / "README.md").write_text("edited\n"), "README.md: differs from nbs/index.ipynb"),
        (
            lambda t: edit(
                t / "nbs/01_one.ipynb", lambda nb: nb.cells[2].update(source="#| export\ndef one(): return 3")
            ),
            "fsskit/one.py: differs",
        ),
    ],
)
def test_drift_is_found_and_the_tree_is_left_as_it_was(tree, change, what):
    change(tree)
    before = {p: p.read_bytes() for p in tree.rglob("*") if p.is_file() and ".git" not in p.parts}
    with pytest.raises(check.Failed) as failure:
        check.gate_export(tree)
    assert what in failure.value.reason
    assert before == {p: p.read_bytes() for p in tree.rglob("*") if p.is_file() and ".git" not in p.parts}


def test_a_module_that_git_does_not_track_is_found(tree):
    subprocess.run(["git", "rm", "-q", "--cached", "fsskit/two.py"], cwd=tree, check=True)
    with pytest.raises(check.Failed, match="git does not track") as failure:
        check.gate_export(tree)
    assert failure.value.remedy.startswith("git add")


# ---- order


@pytest.mark.parametrize(
    "source, module, what",
    [
        ("#| export\nfrom fsskit.two import two", "one", "fsskit.two, whose number 02 is not smaller"),
        ("#| export\nfrom .two import two", "one", "fsskit.two, whose number"),
        ("#| export\nfrom . import two", "one", "fsskit.two, whose number"),
        ("#| export\ndef f():\n    import fsskit.two", "one", "fsskit.two, whose number"),
        (
            "#| exporti\nimport importlib\ndef f(): return importlib.import_module('fsskit.two')",
            "one",
            "fsskit.two, whose number",
        ),
        ("#| export\nfrom fsskit.nothing import x", "one", "fsskit.nothing, which no notebook makes"),
        ("#| export\nfrom fastcore.all import L", "one", "imports fastcore"),
        ("#| export two\nx = 1", "one", "exports to another module, two"),
    ],
)
def test_breaches_of_the_order(tree, source, module, what):
    edit(tree / f"nbs/01_{module}.ipynb", lambda nb: nb.cells.append(new_code_cell(source, id="new")))
    assert any(what in fault for fault in check.order_faults(tree)), check.order_faults(tree)


def test_cells_that_are_not_exported_may_import_anything(tree):
    edit(
        tree / "nbs/01_one.ipynb",
        lambda nb: nb.cells.append(new_code_cell("from fsskit.two import two\nimport nbdev", id="new")),
    )
    assert check.order_faults(tree) == []


@pytest.mark.parametrize(
    "name, first, what",
    [
        ("02_three", "#| default_exp three", "the number 02 is taken"),
        ("03_one", "#| default_exp one", "a second notebook for the module one"),
        ("03_three", "#| default_exp four", "must say `#| default_exp three`"),
        ("tutorials/tour", "#| default_exp tour", "is not named nbs/NN_name"),
    ],
)
def test_one_notebook_one_module(tree, name, first, what):
    write_notebook(tree / f"nbs/{name}.ipynb", first)
    assert any(what in fault for fault in check.order_faults(tree))


# ---- notebooks


def test_lines_are_short():
    long = []
    for name in check.project_files(ROOT):
        if not name.endswith(".py") or name.endswith("_modidx.py"):
            continue
        limit, free = 140, ()
        if name.startswith("fsskit/"):  # nbdev writes the title and the list of names
            limit, free = 120, ('"""', "__all__ = ")
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        long += [f"{name}:{n}" for n, line in enumerate(lines, 1) if len(line) > limit and not line.startswith(free)]
    assert not long, f"too long: {', '.join(long)}"


def test_names_come_in_reading_order(tmp_path):
    for name in (
        "tutorials/a.ipynb",
        "10_b.ipynb",
        "02_c.ipynb",
        "_proc/x.ipynb",
        ".ipynb_checkpoints/y.ipynb",
        "_hidden.ipynb",
    ):
        write_notebook(tmp_path / name)
    assert runner.names(tmp_path) == ["02_c.ipynb", "10_b.ipynb", "tutorials/a.ipynb"]


@pytest.mark.parametrize(
    "text, seconds",
    [(RUN_TIME, 30), ("Run time: at most 30 s", None), ("**Run time:** about 30 s on 2 CPU cores", None)],
)
def test_declared_run_time(text, seconds):
    assert runner.declared(new_notebook(cells=[new_markdown_cell("# A"), new_markdown_cell(text)])) == seconds


@pytest.mark.parametrize("error, again", [("Kernel died before replying to kernel_info", True),
                                          ("NameError: x", False)])
def test_a_kernel_that_did_not_come_up_is_tried_again_alone(tmp_path, monkeypatch, error, again):
    text = nbformat.v4.new_markdown_cell("**Run time:** at most 9 s on 2 CPU cores")
    nbformat.write(nbformat.v4.new_notebook(cells=[text]), tmp_path / "a.ipynb")
    monkeypatch.setattr(runner, "execute", lambda *args: (1.0, error))
    assert (runner.check(tmp_path, "a.ipynb", company=True) == runner.AGAIN) is again
    assert runner.check(tmp_path, "a.ipynb").endswith(f"FAILED\n{error}")


def test_verdicts_on_run_notebooks(tmp_path):
    write_notebook(tmp_path / "silent.ipynb", "1", text="# nothing declared")
    write_notebook(tmp_path / "long.ipynb", "1", text=RUN_TIME.replace("30", "91"))
    write_notebook(tmp_path / "wrong.ipynb", "assert 1 == 2, 'one is not two'")
    write_notebook(tmp_path / "slow.ipynb", "import time; time.sleep(1.1)", text=RUN_TIME.replace("30", "1"))
    write_notebook(
        tmp_path / "blocked.ipynb",
        "import os, subprocess, sys",
        f"command = [sys.executable, '-c', {CONNECT!r}, '192.0.2.1', '80']\n"
        "out = subprocess.run(command, capture_output=True, text=True).stdout\n"
        "assert out == 'refused\\n', out\nassert 'inline' in os.environ.get('MPLBACKEND', 'inline')",
    )
    done = subprocess.run(
        [sys.executable, ROOT / "tools/offline.py", sys.executable, ROOT / "tools/notebooks.py", tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if ".ipynb" in line.split(" ")[0]}
    assert done.returncode == 1
    assert "FAILED: no line" in rows["silent.ipynb"]
    assert "FAILED: declares more than 90 s" in rows["long.ipynb"]
    assert "FAILED" in rows["wrong.ipynb"] and "one is not two" in done.stdout
    assert rows["slow.ipynb"].endswith("FAILED: slower than it declares")
    assert rows["blocked.ipynb"].endswith("ok")


# ---- README


@pytest.mark.parametrize(
    "before, after",
    [
        ("[a](02_photos.ipynb)", "[a](nbs/02_photos.ipynb)"),
        ("[l](../LICENSE)", "[l](LICENSE)"),
        ("![p](images/x.png)", "![p](nbs/images/x.png)"),
        ("[w](https://a.b/c)", "[w](https://a.b/c)"),
        ("[s](#part)", "[s](#part)"),
        ('<img src="images/x.png">', '<img src="nbs/images/x.png">'),
    ],
)
def test_links_hold_from_the_root(before, after):
    assert build_readme.relink(before) == after


def test_readme_takes_tables_from_result_files(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.md").write_text("| set | ratio |\n")
    text = build_readme.include("before\n\n<!-- include results/a.md -->\nafter <!-- a comment -->", tmp_path)
    assert text == "before\n\n| set | ratio |\nafter <!-- a comment -->"


def test_readme_leaves_hidden_cells_and_directives_out(tmp_path):
    write_notebook(
        tmp_path / "nbs/index.ipynb", "#| hide\nsecret = 1", "#| eval: false\nx = y[0](z)", text="# T\n\n[a](b.md)"
    )
    text = build_readme.readme(tmp_path)
    assert "secret" not in text and "#|" not in text
    assert "```python\nx = y[0](z)\n```" in text and "[a](nbs/b.md)" in text
    assert build_readme.links(text) == ["nbs/b.md"]


def test_readme_lists_every_numbered_notebook():
    listed = re.findall(r"\| (\d\d) \| \[\w+\]\(nbs/(\d\d_\w+\.ipynb)\)", (ROOT / "README.md").read_text())
    assert [name for _, name in listed] == [path.name for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))]
    assert all(name.startswith(number) for number, name in listed)


# ---- environments


@pytest.fixture
def fake_env(tree, monkeypatch):
    """`environments.make` with pip and venv recorded instead of run."""
    calls = []
    monkeypatch.setattr(environments, "pip", lambda folder, *args: calls.append(" ".join(args)))
    monkeypatch.setattr(environments, "usable", lambda folder: folder.exists())

    def venv(command, **kwargs):
        if "compileall" in command:
            return calls.append("compile")
        calls.append("venv")
        python = environments.python_of(Path(command[-1]))
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()

    monkeypatch.setattr(environments.subprocess, "run", venv)
    return tree, calls


def test_an_environment_is_made_once_and_again_when_the_requirements_change(fake_env):
    tree, calls = fake_env
    environments.make("dev", tree)
    assert calls[0] == "venv" and "--editable" in calls[-1]
    torch_first, rest = (next(n for n, c in enumerate(calls) if word in c) for word in ("torch", "sam2"))
    assert torch_first < rest and "--no-build-isolation" in calls[rest] and "sam2" not in calls[torch_first]
    assert rest < calls.index("compile")
    calls.clear()
    environments.make("dev", tree)
    assert calls == []
    ini = tree / "settings.ini"
    ini.write_text(ini.read_text().replace("hypothesis", "hypothesis pandas"))
    environments.make("dev", tree)
    assert "venv" not in calls and any("pandas" in call for call in calls)
    calls.clear()
    ini.write_text(ini.read_text().replace("fsskit=fsskit.cli:main", "fss=fsskit.cli:main"))
    environments.make("dev", tree)
    assert len(calls) == 1 and "--editable" in calls[0]


def test_the_wheel_environment_starts_empty_when_requirements_change_and_has_no_development_packages(fake_env):
    tree, calls = fake_env
    environments.make("wheel", tree)
    assert not any(re.search(r"\b(nbdev|pytest|scikit-image)\b", call) for call in calls)
    assert "compile" not in calls
    calls.clear()
    ini = tree / "settings.ini"
    ini.write_text(ini.read_text().replace("hypothesis", "hypothesis pandas"))  # a development package
    environments.make("wheel", tree)
    assert calls == []
    ini.write_text(ini.read_text().replace("einops", "einops pandas"))
    environments.make("wheel", tree)
    assert calls[0] == "venv"


def test_a_moved_environment_is_not_usable(tmp_path):
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (folder / "bin/pip").write_text(f"#!{folder}/bin/python\n")
    assert environments.usable(folder)
    assert not environments.usable(folder.rename(tmp_path / "moved"))


# ---- the run


def fail(root):
    raise check.Failed("it is wrong", "type this")


@pytest.fixture
def gates(monkeypatch):
    monkeypatch.setattr(check, "COUNTS", {"passed": 0, "failed": 0, "skipped": 0})
    monkeypatch.setattr(
        check,
        "GATES",
        {"good": ("g", lambda root: "fine", "x"), "bad": ("b", fail, "x"), "last": ("l", lambda root: "fine", "x")},
    )


def test_the_run_stops_at_a_failure_and_says_what_to_type(gates, capsys):
    assert check.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "to do: type this" in lines and not any("=== last" in line for line in lines)
    assert lines[-1] == "fsskit: 1 passed, 1 failed, 0 skipped"


def test_keep_going_and_only(gates, capsys):
    assert check.main(["--keep-going"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "fsskit: 2 passed, 1 failed, 0 skipped"
    check.COUNTS.update(passed=0, failed=0)
    assert check.main(["--only", "last,good"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "fsskit: 2 passed, 0 failed, 0 skipped"


def test_gates_at_the_same_time(gates, monkeypatch, tmp_path, capsys):
    script = tmp_path / "gate.py"
    script.write_text("import sys; n = sys.argv[2]; print(f'=== {n}\\nseen\\n\\ntotal 1 s\\nsum'); sys.exit(n == 'bad')")
    monkeypatch.setattr(check, "__file__", str(script))
    monkeypatch.setattr(check, "TOGETHER", ("bad", "last"))
    assert check.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "=== good: g" in lines[1]
    assert lines[3:5] == ["", "at the same time: bad, last"]
    assert sorted(lines[5:9]) == ["=== bad", "=== last", "seen", "seen"]
    assert lines[-1] == "fsskit: 2 passed, 1 failed, 0 skipped"
    script.write_text("raise ValueError('broken')")
    assert check.main(["--only", "bad,last"]) == 1
    assert capsys.readouterr().out.count("ValueError: broken") == 2


def test_an_unknown_gate_is_refused(gates, capsys):
    with pytest.raises(SystemExit):
        check.main(["--only", "gud"])
    assert "no gate gud; there are good, bad, last" in capsys.readouterr().err


def test_tests_are_counted_from_pytests_report(gates, tmp_path):
    report = tmp_path / "junit.xml"
    report.write_text('<testsuites><testsuite tests="10" failures="1" errors="2" skipped="3"/></testsuites>')
    check.count_tests(report)
    assert check.COUNTS == {"passed": 4, "failed": 3, "skipped": 3}


@pytest.mark.parametrize("total, branches, faults", [(95.0, 95, 0), (95.0, 89, 1), (89.9, 95, 1), (50.0, 50, 2)])
def test_coverage_has_two_thresholds(total, branches, faults):
    report = {"totals": {"percent_covered": total, "covered_branches": branches, "num_branches": 100}}
    assert len(check.coverage_faults(report)) == faults


def test_every_gate_says_what_to_type():
    assert all(remedy and "\n" not in remedy for _, _, remedy in check.GATES.values())


def test_ci_runs_make_test():
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == "make test"
    assert "set -euo pipefail" in (ROOT / ".ci/run").read_text()


def test_make_lists_its_targets():
    out = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True).stdout
    assert {"demo", "test", "lab", "export", "clean-notebooks", "readme", "train"} <= {
        line.split()[0] for line in out.splitlines()[1:]
    }


def test_settings_of_both_nbdev_generations_agree():
    conf = environments.settings(ROOT)
    text = (ROOT / "pyproject.toml").read_text()
    for key in ("nbs_path", "lib_path"):
        assert f'{key} = "{conf[key]}"' in text
    assert conf["allowed_cell_metadata_keys"] in text
    assert json.loads((ROOT / "nbs/index.ipynb").read_text())["nbformat"] == 4
