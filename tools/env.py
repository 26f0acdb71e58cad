"""Make one of the project's two environments with plain pip, or leave it alone when it is fresh.

    python3 tools/env.py dev      .venv        : requirements + dev_requirements, the project editable
    python3 tools/env.py wheel    .venv-wheel  : requirements only; `make test` puts the built wheel into it

Standard library only: this runs before anything is installed. What an environment was made from is kept in its file
`fsskit-stamp.json`; whatever the stamp says is unchanged is not installed again.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"dev": ".venv", "wheel": ".venv-wheel"}
BUILD_TOOLS = ["pip", "setuptools>=77", "wheel"]
# sam2's setup.py imports torch. Built in isolation it would fetch torch a second time, so torch comes first.
FIRST = {"torch", "torchvision", "timm", "numpy"}


def settings(root: Path = ROOT) -> configparser.SectionProxy:
    """The [DEFAULT] section of settings.ini."""
    parser = configparser.ConfigParser(interpolation=None)
    if not parser.read(root / "settings.ini", encoding="utf-8"):
        raise SystemExit(f"env: {root / 'settings.ini'} is missing")
    return parser["DEFAULT"]


def requirements(kind: str, root: Path = ROOT) -> list[str]:
    """Requirement strings of the environment `kind` ('dev' or 'wheel')."""
    conf = settings(root)
    return conf["requirements"].split() + (conf["dev_requirements"].split() if kind == "dev" else [])


def say(text: str) -> None:
    print(f"env: {text}", flush=True)


def digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def want(kind: str, root: Path = ROOT) -> dict[str, str]:
    """What the stamp of a fresh environment says."""
    stamp = {
        "python": sys.version.split()[0].rpartition(".")[0],
        "folder": str(root / FOLDERS[kind]),
        "requirements": digest(*requirements(kind, root)),
    }
    if kind == "dev":
        stamp["project"] = digest((root / "setup.py").read_text(), (root / "settings.ini").read_text())
    return stamp


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def usable(folder: Path) -> bool:
    """True for an environment made for this folder (scripts carry their path) by this version of Python."""
    try:
        command = [python_of(folder), "-c", "import sys; print(sys.version_info[:2])"]
        version = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        return version == str(sys.version_info[:2]) and str(folder) in (folder / "bin" / "pip").read_text()
    except OSError:
        return False


def pip(folder: Path, *args: str) -> None:
    env = {
        **os.environ,
        "SAM2_BUILD_CUDA": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONPATH": "",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run([python_of(folder), "-m", "pip", *args], env=env)
    if done.returncode:
        raise SystemExit(
            f"env: pip {args[0]} failed in {folder.name}: when it was the network, run the same command again "
            f"(what was downloaded is kept); else remove {folder.name}/ and run it again"
        )


def install(folder: Path, wanted: list[str]) -> None:
    """Two steps: what sam2's build imports, then everything (what is there already stays); for bytecode see `compile_all`."""
    pip(folder, "install", "-qq", "--upgrade", *BUILD_TOOLS)
    say("installing torch (with its CUDA libraries about 5 GB on disk: the first time takes minutes)")
    first = [line for line in wanted if re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() in FIRST]
    pip(folder, "install", "-qq", "--no-compile", *first)
    say("installing the rest")
    pip(folder, "install", "-qq", "--no-compile", "--no-build-isolation", *wanted)
    pip(folder, "check")


def compile_all(folder: Path) -> None:
    """Bytecode of all packages, in one process a core (pip uses one); what is no Python of today stays as it is."""
    say("compiling")
    subprocess.run([python_of(folder), "-m", "compileall", "-qq", "-j", "0", folder])


def make(kind: str, root: Path = ROOT) -> Path:
    """The environment's folder, made or brought up to date where its stamp says so."""
    folder, fresh, started = root / FOLDERS[kind], want(kind, root), time.perf_counter()
    file = folder / "fsskit-stamp.json"
    have = json.loads(file.read_text()) if file.exists() else {}
    if have == fresh and python_of(folder).exists():
        return folder
    file.unlink(missing_ok=True)
    # .venv-wheel starts empty again: a left-over package would hide that a requirement is missing
    if not usable(folder) or (kind == "wheel" and have.get("requirements") != fresh["requirements"]):
        say(f"making {folder.name} with Python {fresh['python']}")
        subprocess.run([getattr(sys, "_base_executable", sys.executable), "-m", "venv", "--clear", folder], check=True)
        have = {}
    if have.get("requirements") != fresh["requirements"]:
        install(folder, requirements(kind, root))
        # not for .venv-wheel, from which little is imported, and once; .venv must be compiled, for where
        # PYTHONDONTWRITEBYTECODE is set every kernel would compile torch anew
        if kind == "dev":
            compile_all(folder)
    if kind == "dev":
        pip(folder, "install", "-qq", "--no-build-isolation", "--no-deps", "--editable", str(root))
    file.write_text(json.dumps(fresh, indent=1) + "\n")
    say(f"{folder.name} is ready ({time.perf_counter() - started:.0f} s)")
    return folder


if __name__ == "__main__":
    if sys.version_info < (3, 10):
        raise SystemExit(
            f"env: Python 3.10 or later is needed, this is {sys.version.split()[0]}: make PYTHON=python3.11 ..."
        )
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["dev", "wheel"])
    make(parser.parse_args().kind)
