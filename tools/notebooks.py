"""Execute notebooks of a folder, each in a fresh kernel, and hold each to the run time that it declares.

    python tools/notebooks.py NBS [NAME ...]    NBS: the folder; NAME: 02_photos.ipynb, tutorials/x.ipynb (default all)

As many at a time as there are cores, with one thread each; one that was too slow in company gets a second, quiet try.
A notebook declares, in any markdown cell:  **Run time:** at most N s on 2 CPU cores  (N at most 90; kernel start and
imports count). Prints a table; exits with 1 when a notebook fails, is too slow, or declares nothing. The notebooks are
not changed. `make test` gives a copy and blocks the network.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

DECLARED = re.compile(r"\*\*Run time:\*\*\s+at most (\d+) s on 2 CPU cores")
LONGEST = 90
AGAIN = "too slow, or without a kernel, in company"


def names(folder: Path) -> list[str]:
    """All notebooks below the folder, in reading order; folders that start with '_' or '.' are left out."""
    found = (path.relative_to(folder) for path in folder.rglob("*.ipynb"))
    return [
        str(p) for p in sorted(found, key=lambda p: (len(p.parts), p)) if not any(part[0] in "._" for part in p.parts)
    ]


def declared(nb) -> int | None:
    """Seconds that the notebook declares, None when it declares none."""
    found = DECLARED.search("\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown"))
    return int(found[1]) if found else None


def execute(nb, folder: Path, limit: int) -> tuple[float, str]:
    """(seconds from kernel start to the last cell's end, the error's last lines or '')."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    client = NotebookClient(nb, timeout=3 * limit + 60, kernel_name="python3")
    client.resources = {"metadata": {"path": str(folder)}}
    client.extra_arguments = ["--log-level=40"]  # a line a kernel on its sockets, which are all on the loopback address
    started, error = time.perf_counter(), ""
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError, RuntimeError) as err:
        error = "\n".join(re.sub(r"\x1b\[[0-9;]*m", "", str(err)).strip().splitlines()[-25:])
    return time.perf_counter() - started, error


def check(folder: Path, name: str, company: bool = False) -> str:
    """One row of the table and, below it, the error of a cell that failed; AGAIN when it may be the fault of its company."""
    import nbformat

    nb = nbformat.read(folder / name, as_version=4)
    limit = declared(nb)
    if limit is None:
        return f"{name:40s} {'-':>8s} {'-':>8s}  FAILED: no line '**Run time:** at most N s on 2 CPU cores'"
    if limit > LONGEST:
        return f"{name:40s} {limit:8d} {'-':>8s}  FAILED: declares more than {LONGEST} s"
    seconds, error = execute(nb, (folder / name).parent, limit)
    no_kernel = error == "Kernel died before replying to kernel_info"  # two that start together may choose the same port
    if company and (no_kernel or not error and seconds > limit):
        return AGAIN
    verdict = f"FAILED\n{error}" if error else "ok" if seconds <= limit else "FAILED: slower than it declares"
    return f"{name:40s} {limit:8d} {seconds:8.1f}  {verdict}"


def one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


def rows(folder: Path, chosen: list[str], workers: int) -> Iterator[str]:
    """The rows of the notebooks, `workers` at a time; then, one by one, of those that failed by the fault of their company."""
    slow = chosen if workers < 2 else []
    if workers > 1:
        with ProcessPoolExecutor(workers, initializer=one_thread) as pool:
            for name, row in zip(chosen, pool.map(check, repeat(folder), chosen, repeat(True))):
                if row == AGAIN:
                    slow.append(name)
                else:
                    yield row
    yield from (check(folder, name) for name in slow)


def main(folder: Path, wanted: list[str]) -> int:
    os.environ.pop("MPLBACKEND", None)
    os.environ.update(HF_HUB_OFFLINE="1", JUPYTER_PREFER_ENV_PATH="1")
    failed = 0
    print(f"{'notebook':40s} {'declared':>8s} {'measured':>8s}  (s)", flush=True)
    with tempfile.TemporaryDirectory() as profile:
        os.environ["IPYTHONDIR"] = profile  # nobody's start-up files
        chosen = wanted or names(folder)
        for row in rows(folder, chosen, min(4, os.cpu_count() or 1, len(chosen))):
            failed += "FAILED" in row.splitlines()[0]
            print(row, flush=True)
    if failed and hasattr(os, "getloadavg"):
        load, cores = os.getloadavg()[0], os.cpu_count()
        print(f"(load average {load:.1f} on {cores} cores: declared times hold for a machine that does nothing else)")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
