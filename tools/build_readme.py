"""README.md from nbs/index.ipynb, through nbconvert: python tools/build_readme.py (make readme)

Nothing is executed: the stored cells and outputs are used. Cells marked `#| hide` are left out, other `#|` lines are
stripped, and relative links are rewritten so that they hold from the repository's root. A line
`<!-- include benchmarks/results/NAME.md -->` becomes that file, so that tables come from measurements.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTE = "<!-- Made from nbs/index.ipynb by `make readme`. Edit the notebook. -->\n\n"
INCLUDE = re.compile(r"<!-- include (\S+) -->")
LINK = re.compile(r"(\]\(|\b(?:src|href)=\")([^)\"\s]+)")


def relink(text: str, folder: str = "nbs") -> str:
    """Relative links of a page in `folder`, as seen from the folder above."""

    def one(match: re.Match) -> str:
        start, target = match.groups()
        outside = re.match(r"[a-z]+:|#|/", target)
        return start + (target if outside else posixpath.normpath(posixpath.join(folder, target)))

    return LINK.sub(one, text)


def links(text: str) -> list[str]:
    """Files that the page's relative links name."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [t.split("#")[0] for _, t in LINK.findall(text) if not re.match(r"[a-z]+:|#", t)]


def include(text: str, root: Path) -> str:
    """Put in the files that `<!-- include PATH -->` lines name, PATH as seen from the repository's root."""
    return INCLUDE.sub(lambda match: (root / match[1]).read_text(encoding="utf-8").strip(), text)


def readme(root: Path = ROOT) -> str:
    """The text of README.md."""
    import nbformat
    from nbconvert import MarkdownExporter

    nb = nbformat.read(root / "nbs" / "index.ipynb", as_version=4)
    nb.cells = [cell for cell in nb.cells if not re.match(r"#\|\s*hide\b", cell.source)]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
        else:
            cell.source = include(relink(cell.source), root)
    nb.metadata["language_info"] = {"name": "python"}  # cleaning removes it; the fences want it
    body, files = MarkdownExporter().from_notebook_node(nb)
    if files["outputs"]:
        raise SystemExit("README: a cell of nbs/index.ipynb shows a picture; save it in nbs/images/ and link it")
    return NOTE + re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"


if __name__ == "__main__":
    text = readme()
    missing = [name for name in links(text) if not (ROOT / name).exists()]
    (ROOT / "README.md").write_text(text, encoding="utf-8")
    sys.exit(f"README.md links to what is not there: {', '.join(missing)}" if missing else 0)
