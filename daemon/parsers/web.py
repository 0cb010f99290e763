"""HTML: what a reader sees of a page, with its headings. Nothing is run or loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from daemon.parsers.encoding import decode
from daemon.parsers.outline import Outline, Parsed
from store.errors import ParseError

_SKIPPED = {"script", "style", "nav", "template", "noscript", "svg", "math", "iframe", "object", "canvas", "form"}
_SKIPPED |= {"button", "select", "head", "footer", "aside"}
_PARAGRAPHS = {"blockquote", "dl", "figure", "ol", "p", "pre", "section", "table", "ul"}
_BLOCKS = {"address", "article", "body", "caption", "dd", "details", "div", "dt", "fieldset", "figcaption", "header"}
_BLOCKS |= {"br", "hr", "html", "li", "main", "summary", "tbody", "tfoot", "thead", "tr"} | _PARAGRAPHS
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_CELLS = {"td", "th"}
_DEEPEST = 10_000  # the library's time grows with the square of the depth: 0.3 s for this, minutes for 100,000
_TAG = re.compile(r"<(/?)(?!(?:br|hr|img|input|link|meta|p|li|dt|dd|tr|td|th|option|col|wbr)\b)[A-Za-z]")


def html(data: bytes) -> Parsed:
    text = html_source(data)
    outline = Outline()
    title = html_into(outline, text)
    return Parsed(title, outline.sections())


def html_source(data: bytes) -> str:
    """The page's source, in the encoding that it declares if it is not UTF-8."""
    declared = re.search(rb"""<(?:meta|\?xml)[^>]*?(?:charset|encoding)=["']?([\w-]+)""", data[:4096], re.IGNORECASE)
    if declared:
        try:
            return data.decode(declared[1].decode("ascii"))
        except (UnicodeDecodeError, LookupError):
            pass  # it declares what it is not
    return decode(data)


def html_text(text: str) -> str:
    """A page as plain text, headings included."""
    outline = Outline()
    html_into(outline, text)
    return "\n\n".join("\n".join([*section.headings[-1:], section.text]) for section in outline.sections())


def html_into(outline: Outline, text: str, depth: int = 0) -> str:
    """Add a page's headings and text to the outline, `depth` levels further in; returns the page's title."""
    from selectolax.lexbor import LexborHTMLParser

    if _depth(text) > _DEEPEST:
        raise ParseError(f"nested more than {_DEEPEST:,} elements deep")
    tree = LexborHTMLParser(text)
    named = tree.css_first("title")
    title = named.text(strip=True) if named else ""
    start = tree.css_first("main, [role=main], article") or tree.body
    if start is None:
        return title
    pre = 0
    heading: list[str] | None = None
    first_heading = ""
    for node, entering in _walk(start):
        tag = node.tag
        if tag == "-text":
            shown = node.text_content or ""
            if heading is not None:
                heading.append(shown)
            else:
                outline.text(shown if pre else re.sub(r"\s+", " ", shown))
        elif tag in _HEADINGS:
            if entering:
                heading = []
            elif heading is not None:
                name = "".join(heading).strip().rstrip("¶#").strip()
                first_heading = first_heading or name
                outline.heading(_HEADINGS[tag] + depth, name)
                heading = None
        elif tag in _BLOCKS:
            if tag == "pre":
                pre += 1 if entering else -1
            outline.text("\n\n" if tag in _PARAGRAPHS else "\n")
            if tag == "li" and entering:
                outline.text("- ")
        elif tag in _CELLS and not entering:
            outline.text(" | ")
    return title or first_heading


def _depth(text: str) -> int:
    """How deep the elements are nested that must be closed, at the deepest place."""
    if text.count("<") <= _DEEPEST:
        return 0
    depth = deepest = 0
    for tag in _TAG.finditer(text):
        depth += -1 if tag[1] else 1
        deepest = max(deepest, depth)
    return deepest


def _walk(start: Any) -> Iterator[tuple[Any, bool]]:
    """Every visible node below `start`: elements on the way in and on the way out, text once. Not recursive, for a
    page may be nested a million deep."""
    open_elements: list[Any] = []
    node = start.first_child
    while True:
        if node is None:
            if not open_elements:
                return
            node = open_elements.pop()
            yield node, False
        elif node.tag == "-text":
            yield node, True
        elif _is_visible(node):
            yield node, True
            open_elements.append(node)
            node = node.first_child
            continue
        node = node.next


def _is_visible(node: Any) -> bool:
    if not node.is_element_node or node.tag in _SKIPPED:
        return False
    attributes = node.attributes
    return not attributes or not (
        attributes.get("role") in ("navigation", "search") or "hidden" in attributes or "aria-hidden" in attributes
    )
