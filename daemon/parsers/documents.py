"""PDF, DOCX, PPTX, XLSX and EPUB."""

from __future__ import annotations

import io
import logging
import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

from daemon.parsers.archive import unzip
from daemon.parsers.outline import Outline, Parsed
from daemon.parsers.records import rows_as_text
from daemon.parsers.web import html_into, html_source
from store.errors import ParseError
from store.types import Section

_MOST_ROWS = 200_000  # of one sheet


def pdf(data: bytes) -> Parsed:
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of every flaw that it mends
    reader = pypdf.PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise ParseError("an encrypted PDF that needs a password")
    sections = tuple(Section(page.extract_text(), page=number) for number, page in enumerate(reader.pages, start=1))
    if sections and not any(section.text.strip() for section in sections):
        raise ParseError("a PDF without text: its pages are images (scanned?)")
    return Parsed(str((reader.metadata and reader.metadata.title) or ""), sections)


def docx(data: bytes) -> Parsed:
    import docx as python_docx
    from docx.table import Table

    unzip(data).close()
    document = python_docx.Document(io.BytesIO(data))
    outline = Outline()
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            outline.text("\n" + "\n".join(_row(cell.text for cell in row.cells) for row in block.rows) + "\n\n")
            continue
        style = (block.style.name or "") if block.style is not None else ""
        if level := re.fullmatch(r"(?:Heading|heading) (\d)", style):
            outline.heading(int(level[1]) + 1, block.text)
        elif style == "Title":
            outline.heading(1, block.text)
        else:
            outline.text(("- " if style.startswith("List") else "") + block.text + "\n\n")
    return Parsed(document.core_properties.title or "", outline.sections())


def pptx(data: bytes) -> Parsed:
    """A slide is a page; its title is the heading; its notes follow its text."""
    import pptx as python_pptx

    unzip(data).close()
    deck = python_pptx.Presentation(io.BytesIO(data))
    outline = Outline()
    for number, slide in enumerate(deck.slides, start=1):
        title = slide.shapes.title
        outline.page(number)
        outline.heading(1, title.text_frame.text if title is not None else "")
        for shape in _shapes(slide.shapes):
            if title is not None and shape.shape_id == title.shape_id:
                continue
            if shape.has_text_frame:
                outline.text(shape.text_frame.text + "\n\n")
            elif getattr(shape, "has_table", False):
                outline.text("\n".join(_row(cell.text for cell in row.cells) for row in shape.table.rows) + "\n\n")
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            outline.text(slide.notes_slide.notes_text_frame.text + "\n")
    return Parsed(deck.core_properties.title or "", outline.sections())


def _shapes(shapes: Iterable[Any]) -> Iterator[Any]:
    """All shapes, those in groups included."""
    waiting = list(shapes)[::-1]
    while waiting:
        shape = waiting.pop()
        if hasattr(shape, "shapes"):
            waiting.extend(list(shape.shapes)[::-1])
        else:
            yield shape


def _row(cells: Iterable[str]) -> str:
    return " | ".join(" ".join(cell.split()) for cell in cells)


def xlsx(data: bytes) -> Parsed:
    """A sheet is a section; its first row names the columns. Formulas show the values that were saved with them."""
    import openpyxl

    unzip(data).close()
    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
    outline = Outline()
    for sheet in book.worksheets:
        outline.heading(1, sheet.title)
        rows = (row for row, _ in zip(sheet.iter_rows(values_only=True), range(_MOST_ROWS), strict=False))
        outline.text(rows_as_text(["" if cell is None else str(cell) for cell in row] for row in rows))
    return Parsed(book.properties.title or "", outline.sections())


def epub(data: bytes) -> Parsed:
    """The chapters in reading order."""
    archive = unzip(data)
    packages = ElementTree.fromstring(archive.read("META-INF/container.xml")).findall(".//{*}rootfile")
    place = next((package.get("full-path") for package in packages), None)
    if place is None:
        raise ParseError("an EPUB whose container names no package")
    package = ElementTree.fromstring(archive.read(place))
    names = {item.get("id"): item.get("href", "") for item in package.findall("{*}manifest/{*}item")}
    outline = Outline()
    for reference in package.findall("{*}spine/{*}itemref"):
        member = posixpath.normpath(
            posixpath.join(posixpath.dirname(place), unquote(names.get(reference.get("idref"), "")))
        )
        if member in archive.namelist():
            html_into(outline, html_source(archive.read(member)))
    title = next((element.text for element in package.iter("{http://purl.org/dc/elements/1.1/}title")), None)
    return Parsed(title or "", outline.sections())
