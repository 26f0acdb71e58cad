"""`make test`: everything that CI runs, gate by gate.

    .venv/bin/python tools/check.py [--only GATE[,GATE]] [--keep-going] [--list]

Each gate prints a header, what it found and its seconds; one that fails says in one line what to type. The run stops at
the first failure unless --keep-going is given; the gates in TOGETHER come last, at the same time, since none of them keeps
two cores busy. The last line counts pytest's tests and the gates together.
"""

from __future__ import annotations

import argparse
import ast
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from xml.etree import ElementTree

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent
sys.path.insert(0, str(TOOLS))
import build_readme  # noqa: E402
import env as environments  # noqa: E402
import notebooks as runner  # noqa: E402
import offline  # noqa: E402

MIN_COVERAGE = 90.0  # per cent: of all lines and branches together, and of the branches alone
STATIC = "fsskit/static"  # the widgets' scripts: written by hand, package data
MIN_IOU = 0.4  # of the mask that the installed wheel finds; random weights find none of it
DEV_ONLY = ["nbdev", "fastcore", "jupyterlab", "nbconvert", "pytest", "hypothesis", "skimage", "jupytext", "playwright"]
COUNTS = {"passed": 0, "failed": 0, "skipped": 0}


@dataclass
class Failed(Exception):
    """A gate's verdict: what is wrong (any number of lines) and, when it is not the gate's usual one, what to type."""

    reason: str
    remedy: str = ""


def run(*command, cwd: Path = ROOT, what: str = "", show: bool = False, **env: str) -> str:
    """Output of a command; when it fails, `Failed` with the last lines of what it printed."""
    full = {key: value for key, value in {**os.environ, **env}.items() if value}
    pipe = None if show else subprocess.PIPE
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=full, stdout=pipe, stderr=pipe and subprocess.STDOUT, text=True)
    if done.returncode:
        raise Failed("\n".join([what or f"failed: {' '.join(words)}", *(done.stdout or "").splitlines()[-30:]]))
    return done.stdout or ""


def script(name: str) -> Path:
    """A console script of the environment that runs this file."""
    return Path(sys.executable).parent / name


def project_files(root: Path, *below: str) -> list[str]:
    """The project's files, relative: tracked, and untracked ones that git does not ignore; without git, all of them."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z", "--", *below]
    git = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if git.returncode == 0:
        return sorted(name for name in set(git.stdout.split("\0")) if name and (root / name).is_file())
    starts = [root / name for name in below] or [root]
    found = [p for start in starts for p in ([start] if start.is_file() else start.rglob("*"))]
    skip = re.compile(r"(^|/)(\.venv|\.git|__pycache__|\.ipynb_checkpoints|build|dist|demo_output|downloads)")
    return sorted(str(p.relative_to(root)) for p in found if p.is_file() and not skip.search(str(p.relative_to(root))))


def copy_files(root: Path, target: Path, *below: str) -> Path:
    for name in project_files(root, *below):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target / name)
    return target


def notebook_names(root: Path) -> list[str]:
    return [name for name in project_files(root, "nbs") if name.endswith(".ipynb")]


def read_cells(path: Path) -> list[dict]:
    """The notebook's cells, each source as one string."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


# ---- clean ---------------------------------------------------------------------------------------------------------

MACHINE_PATH = re.compile(
    r"(?<![\w.])(?:/(?:home|root|Users|work|mnt|media|opt|private/var|tmp/(?=tmp|ipykernel|pytest))/?[\w.\-/]+"
    r"|[A-Z]:\\\\?Users\\[^\s\"']+)"
)


def output_texts(output: dict) -> list[str]:
    """Everything in one cell output that a person could read."""
    join = lambda value: value if isinstance(value, str) else "".join(value)
    data = output.get("data", {})
    return [
        join(output.get("text", "")),
        "\n".join(output.get("traceback", [])),
        *(join(value) for kind, value in data.items() if kind.startswith("text/") or "svg" in kind),
    ]


def unclean(path: Path) -> list[str]:
    """What `nbdev_clean` does not remove and yet does not belong into a stored notebook."""
    found, nb = [], json.loads(path.read_text(encoding="utf-8"))
    if nb["metadata"].get("widgets"):
        found.append("stored widget state (metadata.widgets)")
    for number, cell in enumerate(nb["cells"]):
        if cell.get("execution_count") is not None:
            found.append(f"cell {number}: execution count")
        if any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in cell.get("outputs", [])):
            found.append(f"cell {number}: a live widget without its model (its picture stays)")
        for text in (t for output in cell.get("outputs", []) for t in output_texts(output)):
            paths = sorted(set(MACHINE_PATH.findall(text)))
            found += [f"cell {number}: path of a machine in its output: {path}" for path in paths]
    return found


def gate_clean(root: Path) -> str:
    if not notebook_names(root):
        raise Failed("no notebooks in nbs/, or git ignores this folder", "run it in a clone of the repository")
    with tempfile.TemporaryDirectory() as tmp:
        copy = copy_files(root, Path(tmp), "nbs", "settings.ini", "pyproject.toml")
        said = run(script("nbdev_clean"), cwd=copy)
        if "Failed to clean" in said:
            raise Failed(said)
        dirty = [name for name in notebook_names(root) if not filecmp.cmp(root / name, copy / name, shallow=False)]
    if dirty:
        raise Failed("\n".join(f"{name}: nbdev_clean changes it" for name in dirty))
    found = [f"{name}: {what}" for name in notebook_names(root) for what in unclean(root / name)]
    if found:
        raise Failed(
            "\n".join(found), "change these cells so that they show no such thing, run them, then: make clean-notebooks"
        )
    return f"{len(notebook_names(root))} notebooks"


# ---- export --------------------------------------------------------------------------------------------------------


def differing(root: Path, fresh: Path) -> list[str]:
    """Files of fsskit/ that are not what a fresh export of the notebooks gives; ignored and untracked ones count."""

    def files(folder: Path) -> dict[str, Path]:
        found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {f"fsskit/{path.relative_to(folder)}": path for path in found}

    here, there = files(root / "fsskit"), files(fresh / "fsskit")
    both = sorted(here.keys() & there.keys())
    return (
        [f"{name}: no notebook makes it (remove it, or write its notebook)" for name in sorted(here.keys() - there)]
        + [f"{name}: missing" for name in sorted(there.keys() - here)]
        + [
            f"{name}: differs from its notebook"
            for name in both
            if not filecmp.cmp(here[name], there[name], shallow=False)
        ]
    )


def gate_export(root: Path) -> str:
    with tempfile.TemporaryDirectory() as tmp:
        fresh = copy_files(root, Path(tmp), "nbs", "settings.ini", "pyproject.toml", "fsskit/__init__.py", STATIC)
        run(script("nbdev_export"), cwd=fresh, what="nbdev_export fails:")
        wrong = differing(root, fresh)
    text = build_readme.readme(root)
    if text != (root / "README.md").read_text(encoding="utf-8"):
        wrong.append("README.md: differs from nbs/index.ipynb")
    lost = [name for name in build_readme.links(text) if not (root / name).exists()]
    wrong += [f"README.md: links to {name}, which is not there" for name in lost]
    if wrong:
        raise Failed("\n".join(wrong))
    command = ["git", "ls-files", "-o", "--exclude-standard", "--", "fsskit", "README.md"]
    untracked = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.strip()
    if untracked:
        raise Failed("git does not track:\n" + untracked, "git add fsskit README.md nbs")
    return f"{len(list((root / 'fsskit').glob('*.py')))} files of fsskit/, and README.md, are what the notebooks give"


# ---- order ---------------------------------------------------------------------------------------------------------

DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(default_exp|exports|exporti|export)\b[ \t]*(\S*)", re.M)


def exported(path: Path) -> tuple[str | None, list[str], list[str]]:
    """(module named by default_exp, sources of the exported cells, other modules that a cell exports to)."""
    module, sources, elsewhere = None, [], []
    for cell in read_cells(path):
        for kind, name in DIRECTIVE.findall(cell["source"]) if cell["cell_type"] == "code" else []:
            if kind == "default_exp":
                module = name
                continue
            sources.append(cell["source"])
            elsewhere += [name] if name else []
    return module, sources, elsewhere


def imported(source: str, package: str = "fsskit") -> set[str]:
    """Dotted names of all modules that the code imports, in functions too, and through import_module('...')."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [package if node.level else "", node.module or ""]))
            names |= {f"{base}.{alias.name}" for alias in node.names} if base == package else {base}
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            texts = {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
            names |= texts if called in ("import_module", "__import__") else set()
    return names


def order_faults(root: Path) -> list[str]:
    """Every breach of: notebook NN_name makes the module `name` alone and imports only modules of smaller numbers."""
    faults, number, code = [], {}, {}
    for name in notebook_names(root):
        path, match = root / name, re.fullmatch(r"nbs/(\d\d)_(\w+)\.ipynb", name)
        module, sources, elsewhere = exported(path)
        if not match:
            if module or sources:
                faults.append(f"{name}: exports, but is not named nbs/NN_name.ipynb")
            continue
        if module != match[2]:
            faults.append(f"{name}: its first code cell must say `#| default_exp {match[2]}`, it says {module}")
        if int(match[1]) in number.values():
            faults.append(f"{name}: the number {match[1]} is taken")
        if match[2] in number:
            faults.append(f"{name}: a second notebook for the module {match[2]}")
        faults += [f"{name}: a cell exports to another module, {other}" for other in elsewhere]
        number[match[2]], code[match[2]] = int(match[1]), (name, sources)
    for module, (name, sources) in code.items():
        for target in sorted(set().union(*map(imported, sources)) if sources else ()):
            top, _, rest = target.partition(".")
            if top in ("fastcore", "nbdev"):
                faults.append(f"{name}: exported code imports {top}, which users do not have")
            inner = rest.partition(".")[0]
            if top == "fsskit" and inner in number and number[inner] >= number[module]:
                faults.append(
                    f"{name}: exported code imports {top}.{inner}, whose number {number[inner]:02d} is not smaller"
                )
            if top == "fsskit" and inner and inner not in number and not inner.startswith("__"):
                faults.append(f"{name}: exported code imports fsskit.{inner}, which no notebook makes")
    return faults


def gate_order(root: Path) -> str:
    faults = order_faults(root)
    if faults:
        raise Failed("\n".join(faults))
    look = "import sys, fsskit; print(*sorted({'torch', 'timm', 'matplotlib'} & set(sys.modules)))"
    heavy = run(sys.executable, "-c", look, cwd=root).split()
    if heavy:
        raise Failed(f"`import fsskit` alone imports {', '.join(heavy)}", "take that import out of fsskit/__init__.py")
    return "numbers, one notebook one module, no fastcore or nbdev in exported code, `import fsskit` imports no torch"


# ---- notebooks, pytest ---------------------------------------------------------------------------------------------


def blocked(*command) -> list:
    """The command as one that reaches only the loopback address."""
    return [sys.executable, TOOLS / "offline.py", *command]


def gate_notebooks(root: Path) -> str:
    print(f"network blocked by {offline.NAMES[offline.mode()]}", flush=True)
    with tempfile.TemporaryDirectory() as tmp:
        copy, scratch = copy_files(root, Path(tmp) / "project", "nbs"), Path(tmp) / "scratch"
        scratch.mkdir()
        for name in ("data", "weights"):  # what a notebook reads through ../data
            (copy / name).symlink_to(root / name)
        command = blocked(sys.executable, TOOLS / "notebooks.py", copy / "nbs")
        run(*command, cwd=copy, show=True, what="a notebook failed, see above", TMPDIR=str(scratch))
    return f"{len(notebook_names(root))} notebooks, each within its declared time"


def coverage_faults(report: dict) -> list[str]:
    """What the totals of coverage's JSON report lack."""
    totals = report["totals"]
    percent = {
        "lines and branches": totals["percent_covered"],
        "branches alone": 100 * totals["covered_branches"] / max(1, totals["num_branches"]),
    }
    print("coverage of fsskit/:", ", ".join(f"{value:.1f} % of {what}" for what, value in percent.items()))
    return [
        f"coverage of {what}: {value:.1f} % is less than {MIN_COVERAGE:.0f} %"
        for what, value in percent.items()
        if value < MIN_COVERAGE
    ]


def pytest_command(junit: Path, *options: str) -> list:
    """pytest with branch coverage that adds to the data file of this gate; options end with what is tested."""
    fixed = ["-q", "-p", "no:cacheprovider", "--durations=10", "--cov", f"--junitxml={junit}"]
    return blocked(sys.executable, "-m", "pytest", *fixed, *options)


def gate_pytest(root: Path) -> str:
    """Most tests in one process a core, then by themselves those marked `alone`, which need a quiet machine."""
    print(f"network blocked by {offline.NAMES[offline.mode()]}", flush=True)
    with tempfile.TemporaryDirectory() as tmp:
        cover, junits = Path(tmp) / "coverage.json", [Path(tmp) / "many.xml", Path(tmp) / "alone.xml"]
        env = {"MPLBACKEND": "Agg", "COVERAGE_FILE": str(Path(tmp) / "coverage"), "TMPDIR": tmp}
        cores = ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile", "-m", "not alone", "--cov-report=", "tests"]
        marked = [p for p in sorted((root / "tests").glob("test_*.py")) if "pytest.mark.alone" in p.read_text("utf-8")]
        report = ["-m", "alone", "--cov-append", "--cov-report=term:skip-covered", f"--cov-report=json:{cover}", *marked]
        what = "tests failed, see above"
        try:
            many = pytest_command(junits[0], *cores)
            run(*many, cwd=root, show=True, what=what, **env, OMP_NUM_THREADS="1")
            run(*pytest_command(junits[1], *report), cwd=root, show=True, what=what, **env)
        finally:
            for junit in junits:
                count_tests(junit)
        faults = coverage_faults(json.loads(cover.read_text()))
    if faults:
        raise Failed(
            "\n".join(faults), "write tests for what .venv/bin/python -m pytest --cov --cov-report=term-missing lists"
        )
    return f"{COUNTS['passed']} tests passed, {COUNTS['skipped']} skipped"


def count_tests(junit: Path) -> None:
    """Add the numbers of pytest's report to COUNTS."""
    suites = ElementTree.parse(junit).getroot().iter("testsuite") if junit.exists() else []
    for suite in suites:
        total, failures, errors, skipped = (int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped"))
        for key, value in zip(COUNTS, (total - failures - errors - skipped, failures + errors, skipped)):
            COUNTS[key] += value


# ---- package -------------------------------------------------------------------------------------------------------


def build(root: Path, out: Path) -> tuple[Path, Path]:
    """(sdist, wheel): the wheel is built from the sdist, both from a copy that holds the project's files only."""
    with tempfile.TemporaryDirectory() as tmp:
        copy_files(root, Path(tmp))
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, tmp]
        run(*command, cwd=Path(tmp), what="python -m build fails:")
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def package_faults(root: Path, sdist: Path, wheel: Path) -> list[str]:
    """What is in the two archives and should not be, and what is not and should."""
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        meta = Parser().parsestr(archive.read(next(n for n in inside if n.endswith(".dist-info/METADATA"))).decode())
    with tarfile.open(sdist) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    weights = project_files(root, "weights")
    shipped = {name for name in weights if re.fullmatch(r"weights/[^/]+\.(safetensors|json|md)", name)}
    wanted = {name for name in project_files(root, "fsskit") if name.endswith(".py") or name.startswith(STATIC)} | {
        f"fsskit/{name}" for name in shipped
    }
    needed = {"setup.py", "settings.ini", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} | shipped
    strays = {name for name in inside - wanted if not re.match(r"fsskit-[^/]+\.dist-info/", name)}
    outside = {name for name in source if re.match(r"(nbs|tests|tools|data|assignments|benchmarks)/", name)}
    runtime = [line for line in meta.get_all("Requires-Dist", []) if "extra" not in line]
    return (
        [f"wheel: {name} does not belong there" for name in sorted(strays)]
        + [f"wheel: {name} is missing" for name in sorted(wanted - inside)]
        + [f"wheel: requires {line}" for line in runtime if re.match(rf"({'|'.join(DEV_ONLY)})\b", line)]
        + ["wheel: no licence file"] * (not any(name.endswith("licenses/LICENSE") for name in inside))
        + ["wheel: licence is not declared as Apache-2.0"] * (meta["License-Expression"] != "Apache-2.0")
        + [f"sdist: {name} is missing" for name in sorted(needed - source)]
        + [f"sdist: {name} does not belong there" for name in sorted(outside)]
    )


def write_inputs(folder: Path) -> "np.ndarray":  # noqa: F821
    """The demo's first pair as files, made with packages that only this environment has; the query's true mask."""
    from demo import read_pairs
    from PIL import Image

    pair = read_pairs(["face"])[0]
    Image.fromarray(pair.support).save(folder / "support.jpg", quality=95)
    Image.fromarray(pair.support_mask * 255).save(folder / "support.png")
    Image.fromarray(pair.query).save(folder / "query.jpg", quality=95)
    return pair.truth > 0


def segment_with_wheel(python: Path) -> float:
    """IoU of the mask that the installed `fsskit segment` finds from an empty folder, network blocked, home empty."""
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as tmp:
        home, empty = Path(tmp, "home"), Path(tmp, "empty")
        home.mkdir(), empty.mkdir()
        truth = write_inputs(home)
        clean = {
            "PYTHONPATH": "",
            "FSSKIT_DATA": "",
            "FSSKIT_WEIGHTS": "",
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "HF_HOME": str(home / "hf"),
        }
        look = (
            f"import fsskit, importlib.util as u; print(fsskit.__file__, *[m for m in {DEV_ONLY!r} if u.find_spec(m)])"
        )
        where, *present = run(python, "-c", look, cwd=empty, **clean).split()
        if python.parents[1] not in Path(where).parents or present:
            raise Failed(
                f"not an installation of the wheel alone: {where} {' '.join(present)}",
                "rm -r .venv-wheel && make test ARGS='--only package'",
            )
        command = blocked(
            python.parent / "fsskit",
            "segment",
            "--support",
            home / "support.jpg",
            "--mask",
            home / "support.png",
            "--query",
            home / "query.jpg",
            "--out",
            home / "out",
        )
        run(*command, cwd=empty, what="fsskit segment, from the installed wheel, fails:", **clean)
        masks = sorted((home / "out").rglob("*mask*.png"))
        if len(masks) != 1 or any(empty.iterdir()):
            found = [str(path.relative_to(tmp)) for path in Path(tmp).rglob("*.png")]
            raise Failed(f"wanted one mask and nothing outside --out, found {found}")
        found = np.asarray(Image.open(masks[0])) > 0
    if found.shape != truth.shape:
        raise Failed(f"the mask is {found.shape}, the query {truth.shape}")
    return float((found & truth).sum() / (found | truth).sum())


def gate_package(root: Path) -> str:
    with tempfile.TemporaryDirectory() as tmp:
        sdist, wheel = build(root, Path(tmp))
        print(*[f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in (sdist, wheel)], sep=", ", flush=True)
        faults = package_faults(root, sdist, wheel)
        if faults:
            raise Failed("\n".join(faults), "correct setup.py or MANIFEST.in, then: make test ARGS='--only package'")
        run(*course(root), "prove", sdist, wheel, cwd=root, what="sdist or wheel hold answers of the assignments:")
        try:
            python = environments.python_of(environments.make("wheel", root))
        except SystemExit as stop:
            raise Failed(str(stop))
        command = [python, "-m", "pip", "install", "-qq", "--no-deps", "--force-reinstall", wheel]
        run(*command, what="pip install of the wheel fails:")
        run(python, "-m", "pip", "check", what="pip check of the wheel's environment:")
    iou = segment_with_wheel(python)
    if iou < MIN_IOU:
        raise Failed(f"fsskit segment from the wheel: IoU {iou:.3f} with the known mask, wanted {MIN_IOU}")
    return f"the installed wheel segments a photo offline, IoU {iou:.3f} with the known mask"


# ---- assignments ---------------------------------------------------------------------------------------------------


def course(root: Path) -> list:
    return [sys.executable, root / "assignments" / "course.py"]


def gate_assignments(root: Path) -> str:
    """The grader's short self-test, and no solution and no hidden check in what students get."""
    run(*course(root), "selftest", "--quick", cwd=root, show=True, what="the grader's self-test fails, see above")
    with tempfile.TemporaryDirectory() as tmp:  # a release proves itself before it is written
        run(*course(root), "release", "--no-run", "--out", tmp, cwd=root, what="the release cannot be made:")
    return "exact marks for every kind of submission; the release holds no answer"


# ---- site ----------------------------------------------------------------------------------------------------------


def gate_site(root: Path) -> str:
    """The documentation site is made without a warning, its links hold, and it holds no answer of the assignments."""
    with tempfile.TemporaryDirectory() as tmp:
        said = run(sys.executable, root / "tools" / "build_site.py", "--out", tmp, cwd=root, what="the site cannot be made:")
        run(*course(root), "prove", Path(tmp, "html"), cwd=root, what="the site holds answers of the assignments:")
    return said.splitlines()[-2]


# ---- the run -------------------------------------------------------------------------------------------------------

AGAIN = "correct what is listed above, then: make test ARGS='--only {}'"
GATES = {  # name: (what it shows, function, what to type when it fails)
    "clean": ("notebooks are stored clean", gate_clean, "make clean-notebooks"),
    "export": ("the package is what the notebooks export", gate_export, "make export && git add nbs fsskit README.md"),
    "order": ("a module imports only modules of smaller numbers", gate_order, AGAIN.format("order")),
    "notebooks": ("every notebook runs, offline, in its declared time", gate_notebooks, AGAIN.format("notebooks")),
    "pytest": ("tests, with branch coverage, offline", gate_pytest, AGAIN.format("pytest")),
    "assignments": ("the grader is right, and the release holds no answer", gate_assignments, AGAIN.format("assignments")),
    "site": ("the documentation site, made offline, holds no answer", gate_site, AGAIN.format("site")),
    "package": ("sdist and wheel; the wheel, installed alone, works offline", gate_package, AGAIN.format("package")),
}
TOGETHER = ("assignments", "site", "package")


def pass_gate(name: str, root: Path = ROOT) -> bool:
    """Run one gate and report on it."""
    title, gate, remedy = GATES[name]
    print(f"\n=== {name}: {title}", flush=True)
    started = time.perf_counter()
    try:
        verdict, good = f"ok: {gate(root)}", True
    except Failed as failure:
        verdict, good = f"FAILED\n{failure.reason}\nto do: {failure.remedy or remedy}", False
    COUNTS["passed" if good else "failed"] += 1
    print(f"--- {name}: {time.perf_counter() - started:.1f} s, {verdict}", flush=True)
    return good


def in_own_process(name: str) -> tuple[str, bool]:
    """A gate's report, without the summary of its process, and whether it passed."""
    command = [sys.executable, __file__, "--only", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout.rpartition("\ntotal ")[0] or done.stdout, done.returncode == 0


def pass_together(names: list[str]) -> bool:
    """Run gates at the same time; each report is printed when it is whole."""
    print(f"\nat the same time: {', '.join(names)}", flush=True)
    with ThreadPoolExecutor(len(names)) as pool:
        good = []
        for done in as_completed([pool.submit(in_own_process, name) for name in names]):
            report, passed = done.result()
            print(report, end="", flush=True)
            COUNTS["passed" if passed else "failed"] += 1
            good.append(passed)
    return all(good)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="gates to run, separated by commas", default=",".join(GATES))
    parser.add_argument("--keep-going", action="store_true", help="run the other gates after one has failed")
    parser.add_argument("--list", action="store_true", help="list the gates")
    args = parser.parse_args(arguments)
    names = args.only.split(",")
    if unknown := set(names) - set(GATES):
        parser.error(f"no gate {', '.join(sorted(unknown))}; there are {', '.join(GATES)}")
    if args.list:
        print("\n".join(f"{name:10s} {GATES[name][0]}" for name in GATES))
        return 0
    started = time.perf_counter()
    together = [name for name in names if name in TOGETHER]
    steps = [[name] for name in names if name not in together] + [together] * bool(together)
    for number, step in enumerate(steps, 1):
        good = pass_gate(*step) if len(step) == 1 else pass_together(step)
        if not good and not args.keep_going:
            print(f"stopped; not run: {', '.join(sum(steps[number:], [])) or 'none'} (ARGS=--keep-going runs all)")
            break
    print(f"\ntotal {time.perf_counter() - started:.0f} s")
    print(f"fsskit: {COUNTS['passed']} passed, {COUNTS['failed']} failed, {COUNTS['skipped']} skipped", flush=True)
    return int(COUNTS["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
