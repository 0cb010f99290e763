"""PDF: the text of each page."""

from __future__ import annotations

import io
import logging

from daemon.parsers.outline import Parsed
from store.errors import ParseError
from store.types import Section


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
