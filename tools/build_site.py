"""The documentation site, from what is stored: python tools/build_site.py [--out _docs] [--live] [--links]   (make site)

Notebooks with their outputs, a page for each module from its source, live pages in frames, model cards and results.
Nothing is executed and nothing is fetched; `#|` lines are taken out of cells, all else is shown. A warning of Sphinx is
an error, and afterwards every link within the site is followed. The site is OUT/html; open its index.html.

--live     make the live pages first (they need the encoder, about a minute); else those that lie in OUT/live are shown
--links    only follow the links of the site that is there
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import api_pages  # noqa: E402
import build_readme  # noqa: E402
import notebooks as runner  # noqa: E402

DIRECTIVE = re.compile(r"^[ \t]*#[ \t]*\|.*\n?", re.M)
FENCED = re.compile(r"(^```.*?^```|^~~~.*?^~~~|`[^`\n]+`)", re.M | re.S)
WHOLE_LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\(([^)\s]+)\)")
OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:|#|/", re.I)
PROJECT = ("CHANGELOG.md", "CONTRIBUTING.md")
ORPHAN = "---\norphan: true\n---\n\n"  # a page that only links lead to
UNPUBLISHED = ("assignments",)  # folders whose files are not shown: links to them become words
FOLDERS = {"weights": "Weights and their model cards", "benchmarks/results": "Measured results"}


def text_of(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


# ---- the pages' sources


@dataclass
class Site:
    """A folder of sources that is being filled."""

    root: Path  # of the project
    source: Path  # where pages are written
    written: set[Path] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)  # links to what is not there

    def write(self, name: str, content: str | bytes) -> None:
        """One file, touched only when it changes, so that Sphinx builds what changed."""
        path, data = self.source / name, content.encode() if isinstance(content, str) else content
        self.written.add(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (path.is_file() and path.read_bytes() == data):
            path.write_bytes(data)

    def tidy(self) -> None:
        """Remove what an earlier build wrote and this one did not."""
        for path in self.source.rglob("*"):
            if path.is_file() and path not in self.written:
                path.unlink()


def place(name: str) -> str:
    """Where a file of the project is on the site: notebooks at the top, all else as in the repository."""
    return name.removeprefix("nbs/")


def target_of(site: Site, name: str) -> str:
    """The page or file of the site that a link to a file of the project should name; '' when there is none."""
    path = site.root / name
    if path.is_dir():
        folder_page(site, name)
        return f"{place(name)}/index.md"
    if not path.is_file():
        return ""
    if path.suffix != ".md" and not (path.suffix == ".ipynb" and name.startswith("nbs/")):
        site.write(place(name), path.read_bytes())
    elif path.suffix == ".md":
        text_page(site, name)
    return place(name)


def relink(site: Site, text: str, page: str) -> str:
    """Links of a page of the project (`nbs/05_episodes.ipynb`) as they hold on the site; code is left alone."""

    named = lambda file: posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(file)))

    def words(match: re.Match) -> str:
        name = named(match[2])
        return f"{match[1]} (`{name}`)" if name.split("/")[0] in UNPUBLISHED else match[0]

    def one(match: re.Match) -> str:
        start, target = match.groups()
        if OUTSIDE.match(target):
            return match[0]
        file, hash_, anchor = target.partition("#")
        found = target_of(site, named(file))
        if not found:
            site.missing.append(f"{page} links to {target}, which is not there")
            return match[0]
        return start + posixpath.relpath(found, posixpath.dirname(place(page)) or ".") + hash_ + anchor

    parts = FENCED.split(text)
    return "".join(part if n % 2 else build_readme.LINK.sub(one, WHOLE_LINK.sub(words, part)) for n, part in enumerate(parts))


def text_page(site: Site, name: str) -> None:
    """A Markdown file of the project; one without a title gets its name as title."""
    if site.source / place(name) in site.written:
        return
    site.written.add(site.source / place(name))  # pages may link to each other
    text = (site.root / name).read_text(encoding="utf-8")
    if not re.search(r"^# ", text, re.M):
        text = f"# {Path(name).stem.replace('_', ' ')}\n\n{text}"
    folder = posixpath.dirname(name)
    listed = name in PROJECT or folder in FOLDERS or site.source / folder / "index.md" in site.written
    site.write(place(name), ("" if listed else ORPHAN) + relink(site, text, name))


def toctree(entries: list[str], hidden: bool = True) -> str:
    return "\n".join(["```{toctree}", *([":hidden:"] if hidden else []), "", *entries, "```"]) + "\n"


def folder_page(site: Site, name: str) -> None:
    """What a folder of the project holds: its Markdown files as pages, the others by name and size."""
    page = f"{place(name)}/index.md"
    if site.source / page in site.written:
        return
    site.written.add(site.source / page)
    files = sorted(p for p in (site.root / name).iterdir() if p.is_file() and p.name[0] not in "._" and p.name != "index.md")
    texts = [p for p in files if p.suffix == ".md"]
    for p in texts:
        text_page(site, f"{name}/{p.name}")
    lines = [f"| [{p.name}]({p.name}) | |" if p in texts else f"| {p.name} | {p.stat().st_size / 1e6:.2f} MB |" for p in files]
    title = FOLDERS.get(name, name)
    table = "\n".join(["| file | size |", "|---|---:|", *lines])
    orphan = "" if name in FOLDERS else ORPHAN
    site.write(page, f"{orphan}# {title}\n\n{table}\n\n{toctree([p.stem for p in texts])}")


# ---- notebooks


@dataclass
class Lesson:
    """What lists say about a notebook."""

    name: str  # as on the site
    title: str
    subtitle: str
    seconds: str  # declared run time

    @property
    def entry(self) -> str:
        """In the tree of contents: the number and the title."""
        number = re.match(r"(\d+)_", Path(self.name).stem)
        shown = f"{number[1]} {self.title}" if number else self.title
        return f"{shown} </{self.name.removesuffix('.ipynb')}>"


def cleaned_cell(site: Site, cell: dict, page: str) -> dict | None:
    """A cell as it is shown: without directive lines, with links that hold; None when nothing is left."""
    source = text_of(cell["source"])
    if cell["cell_type"] == "markdown":
        source = build_readme.include(relink(site, source, page), site.root)
    elif cell["cell_type"] == "code":
        source = DIRECTIVE.sub("", source).strip("\n")
        if not source.strip() and not cell.get("outputs"):
            return None
    return {**cell, "source": source}


def notebook_page(site: Site, name: str, extra: str = "") -> Lesson:
    """A notebook with its stored outputs; `extra`: Markdown that is added at the end."""
    nb = json.loads((site.root / "nbs" / name).read_text(encoding="utf-8"))
    nb["cells"] = [made for cell in nb["cells"] if (made := cleaned_cell(site, cell, f"nbs/{name}"))]
    if extra:
        nb["cells"].append({"cell_type": "markdown", "id": "contents", "metadata": {}, "source": extra})
    nb["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "python"}  # cleaning took it out
    site.write(name, json.dumps(nb, indent=1, ensure_ascii=False))
    prose = "\n".join(cell["source"] for cell in nb["cells"] if cell["cell_type"] == "markdown")
    found = [re.search(p, prose, re.M) for p in (r"^# (.+)", r"^> (.+(?:\n> .+)*)")]
    title, subtitle = (m[1].replace("\n> ", " ") if m else "" for m in found)
    declared = runner.DECLARED.search(prose)
    title, subtitle = title.replace("`", "") or Path(name).stem, subtitle.replace("|", "\\|")
    return Lesson(name, title, subtitle, f"{declared[1]} s" if declared else "")


def lesson_list(site: Site, page: str, title: str, intro: str, lessons: list[Lesson]) -> None:
    """A page that lists notebooks."""
    link = lambda lesson: posixpath.relpath(lesson.name, posixpath.dirname(page) or ".")
    number = lambda lesson: (re.match(r"\d+(?=_)", Path(lesson.name).stem) or [""])[0]
    rows = [f"| {number(x)} | [{x.title}]({link(x)}) | {x.subtitle} | {x.seconds} |" for x in lessons]
    table = "\n".join(["| | notebook | | at most |", "|---|---|---|---:|", *rows])
    site.write(page, f"# {title}\n\n{intro}\n\n{table}\n\n{toctree([x.entry for x in lessons])}")


def notebook_pages(site: Site) -> list[str]:
    """All notebooks but the front page, and the lists of them; returns the entries of the lists."""
    names, entries = [name for name in runner.names(site.root / "nbs") if name != "index.ipynb"], []
    tutorials = [notebook_page(site, name) for name in names if "/" in name]
    lessons = [notebook_page(site, name) for name in names if "/" not in name]
    if tutorials:
        lesson_list(site, "tutorials/index.md", "Tutorials", "How to use the package, from the first episode on.", tutorials)
        entries.append("tutorials/index")
    intro = "In order. Each explains one part of the kit, makes the module of its name, and runs on a laptop."
    lesson_list(site, "notebooks.md", "Notebooks", intro, lessons)
    return [*entries, "notebooks"]


# ---- modules, live pages, the project's own pages


def module_pages(site: Site) -> list[str]:
    """A page for each module, and their list."""
    files = sorted(p for p in (site.root / "fsskit").glob("*.py") if p.name[0] != "_")
    modules = [api_pages.read_module(path) for path in files]
    number = lambda m: (not m.notebook, m.notebook, m.name)  # in the order of the notebooks
    rows = []
    for module in sorted(modules, key=number):
        there = module.notebook and (site.root / "nbs" / module.notebook).is_file()
        site.write(f"api/{module.name}.md", api_pages.page(module, f"../{module.notebook}" if there else ""))
        said = (api_pages.ast.get_docstring(module.tree) or "").split("\n")[0]
        rows.append(f"| [{api_pages.plain(module.name)}]({module.name}.md) | {api_pages.plain(said)} |")
    table = "\n".join(["| module | |", "|---|---|", *rows])
    names = [module.name for module in sorted(modules, key=number)]
    site.write("api/index.md", f"# Modules\n\nWhat can be imported from `fsskit`, module by module.\n\n{table}\n\n{toctree(names)}")
    return ["api/index"]


FRAME = """# {title}

<iframe class="live" src="../_live/{name}.html" title="{title}" loading="lazy"></iframe>

<p><a href="../_live/{name}.html">Open it by itself</a>: one file of {size:.1f} MB that needs no kernel and no network. Mouse and arrow
keys work; [ and ] change the layer where there are layers.</p>
"""


def live_pages(site: Site, live: Path) -> list[str]:
    """Exported widgets, each in a frame; nothing when there are none."""
    files = sorted(live.glob("*.html")) if live.is_dir() else []
    for path in files:
        found = re.search(r"<title>([^<]*)</title>", path.read_text(encoding="utf-8")[:20000])
        title = found[1].strip() if found and found[1].strip() else path.stem.replace("_", " ")
        site.write(f"live/{path.stem}.md", FRAME.format(title=title, name=path.stem, size=path.stat().st_size / 1e6))
    if not files:
        return []
    intro = "Widgets of the notebooks, exported. They answer to mouse and keyboard here as there, without Python."
    site.write("live/index.md", f"# Live pages\n\n{intro}\n\n{toctree([path.stem for path in files], hidden=False)}")
    return ["live/index"]


def project_pages(site: Site) -> list[str]:
    """What is new, how to work on it, results, model cards."""
    names = [name for name in PROJECT if (site.root / name).is_file()]
    for name in names:
        text_page(site, name)
    folders = [name for name in FOLDERS if (site.root / name).is_dir()]
    for name in folders:
        folder_page(site, name)
    entries = [*(name.removesuffix(".md") for name in names), *(f"{name}/index" for name in folders)]
    if not entries:
        return []
    site.write("project.md", f"# Project\n\n{toctree(entries, hidden=False)}")
    return ["project"]


def prepare(root: Path, source: Path, live: Path) -> Site:
    """Write all sources of the site."""
    site = Site(root, source)
    entries = [*notebook_pages(site), *live_pages(site, live), *module_pages(site), *project_pages(site)]
    if (root / "nbs/index.ipynb").is_file():
        notebook_page(site, "index.ipynb", toctree(entries))
    else:
        site.write("index.md", f"# {root.name}\n\n{toctree(entries, hidden=False)}")
    site.tidy()
    return site


# ---- Sphinx


def sphinx(root: Path, source: Path, out: Path, live: Path) -> tuple[int, str]:
    """Build the pages: exit code of Sphinx, and what it said. Warnings are errors."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(root / "settings.ini", encoding="utf-8")
    conf = parser["DEFAULT"]
    extra = out / "extra"
    shutil.rmtree(extra, ignore_errors=True)
    if live.is_dir():
        shutil.copytree(live, extra / "_live", ignore=lambda folder, names: [n for n in names if not n.endswith(".html")])
    else:
        extra.mkdir(parents=True)
    name, version = conf.get("lib_name", root.name), conf.get("version", "")
    values = {"project": name, "release": version, "version": version, "html_title": f"{name} {version}".strip(),
              "copyright": conf.get("copyright", ""), "html_extra_path": extra}  # fmt: skip
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-c", ROOT / "docs", "-d", out / "doctrees"]
    command += [word for key, value in values.items() for word in ("-D", f"{key}={value}")] + [source, out / "html"]
    env = {**os.environ, "PYTHONWARNINGS": "ignore", "NO_COLOR": "1"}
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    return done.returncode, done.stdout


# ---- links

LINKS = {"a": "href", "link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
FROM_ELSEWHERE = re.compile(r"url\(\s*[\"']?(?:https?:)?//|@import\s+[\"'](?:https?:)?//")


class Page(HTMLParser):
    """The links and the places of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []  # tag, address
        self.places: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.places |= {value for key in ("id", "name") if (value := given.get(key))}
        if value := given.get(LINKS.get(tag, "")):
            self.links.append((tag, value))


def wrong_link(path: Path, tag: str, address: str, pages: dict[Path, Page]) -> str:
    """What is wrong with a link, or ''. A link to elsewhere is not followed, but nothing may be loaded from there."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return "is loaded from elsewhere" if tag != "a" and parts.scheme != "data" else ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return "is not there"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
        return "has no such place"
    return ""


def check_links(html: Path) -> list[str]:
    """Everything that is wrong with the links of a built site, one line each; of live pages only that they are there."""
    html, found = html.resolve(), []
    files = [path for path in sorted(html.rglob("*.html")) if path.relative_to(html).parts[0] not in ("_live", "_static")]
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in files}
    for path, page in pages.items():
        for tag, address in dict.fromkeys(page.links):
            if wrong := wrong_link(path, tag, address, pages):
                found.append(f"{path.relative_to(html)}: {address} {wrong}")
    for path in sorted(html.rglob("*.css")):
        if FROM_ELSEWHERE.search(path.read_text(encoding="utf-8", errors="replace")):
            found.append(f"{path.relative_to(html)}: something in it is loaded from elsewhere")
    return found


# ---- all of it


def build(root: Path, out: Path) -> list[str]:
    """Build the site of a project into OUT/html; returns what is wrong, nothing when all is well."""
    live, source = out / "live", out / "source"
    site = prepare(root, source, live)
    if site.missing:
        return site.missing
    code, said = sphinx(root, source, out, live)
    return said.strip().splitlines() or ["Sphinx failed and said nothing"] if code else check_links(out / "html")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "_docs")
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--links", action="store_true")
    given, start = parser.parse_args(words), time.perf_counter()
    out = given.out.resolve()
    if given.live:
        import make_live_pages

        make_live_pages.main(out / "live")
    wrong = check_links(out / "html") if given.links else build(ROOT, out)
    print("\n".join(wrong) or f"{len(list((out / 'html').rglob('*.html')))} pages in {time.perf_counter() - start:.0f} s, all links hold")
    print("" if wrong else f"open {out / 'html' / 'index.html'}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
