"""Formulas as MathML, which browsers draw by themselves: no script, nothing to load. The converter is that of docutils."""

from __future__ import annotations

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

SPELLINGS = (
    (re.compile(r"\\(big|Big|bigg|Bigg)(?![A-Za-z])(?=\s*(?:[)\]]|\\\}|\\r(?:vert|Vert|angle)))"), r"\\\1r"),
    (re.compile(r"\\(big|Big|bigg|Bigg)(?![A-Za-z])"), r"\\\1l"),
    (re.compile(r"\\dots(?![A-Za-z])"), r"\\ldots"),
    (re.compile(r"\\textstyle(?![A-Za-z])\s*"), ""),
    (re.compile(r"\\([dt]?frac)\s*([0-9A-Za-z])\s*([0-9A-Za-z])"), r"\\\1{\2}{\3}"),
)


def mathml(tex: str, block: bool = False) -> str:
    """A formula as MathML; spellings that the converter does not know are put in others first."""
    for found, other in SPELLINGS:
        tex = found.sub(other, tex)
    return tex2mathml(tex.strip(), as_block=block)


def visit(translator, node: nodes.Element, block: bool) -> None:
    """Write a formula; one that cannot be converted is a warning, and appears as it was typed."""
    tag = "div" if block else "span"
    try:
        found = mathml(node.astext(), block)
    except (MathError, ValueError, IndexError) as error:
        logging.getLogger(__name__).warning("no MathML for %r: %s", node.astext(), error, location=node, type="mathml")
        found = translator.encode(node.astext())
    translator.body.append(f"{translator.starttag(node, tag, '', CLASS='math')}{found}</{tag}>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    inline, block = (lambda translator, node: visit(translator, node, False)), (lambda t, node: visit(t, node, True))
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
