"""Turns the equations of a page into MathML while the site is built, so that no script has to."""

import html
import re
from xml.etree import ElementTree

from latex2mathml.converter import convert

EQUATION = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\s*\\[(\[](?P<tex>.*?)\\[)\]]\s*</(?P=tag)>',
    re.DOTALL,
)


def on_page_content(content: str, **_) -> str:
    """Replace what `pymdownx.arithmatex` marked; MkDocs calls this for every page."""
    return EQUATION.sub(_render, content)


def _render(match: re.Match) -> str:
    """MathML of one equation, kept in the element that held it."""
    tex = html.unescape(match["tex"]).strip()
    block = match["tag"] == "div"
    mathml = convert(tex, display="block" if block else "inline")
    unknown = [text for text in ElementTree.fromstring(mathml).itertext() if "\\" in text]
    if unknown:
        raise ValueError(f"latex2mathml does not know {unknown} in the equation {tex}")
    return f'<{match["tag"]} class="equation">{mathml}</{match["tag"]}>'
