"""Take live widgets out of stored notebooks; their pictures stay: python tools/strip_widgets.py [NOTEBOOK ...]

A notebook that was run in JupyterLab holds, for every widget shown, the number of a model that died with the kernel; opened
again, the page would say "model not found" in place of the picture beside it. `make clean-notebooks` calls this.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VIEW = "application/vnd.jupyter.widget-view+json"


def strip(path: Path) -> int:
    """How many widgets were taken out of the notebook."""
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    notebook["metadata"].pop("widgets", None)
    outputs = (output for cell in notebook["cells"] for output in cell.get("outputs", []))
    found = [output["data"].pop(VIEW) for output in outputs if VIEW in output.get("data", {})]
    after = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if found or "widgets" in json.loads(text)["metadata"]:
        path.write_text(after, encoding="utf-8")
    return len(found)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted((ROOT / "nbs").rglob("*.ipynb")):
        if count := strip(Path(name)):
            print(f"{name}: {count} live widgets taken out, their pictures stay")
