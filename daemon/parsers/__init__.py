"""File bytes -> text with structure. To add a format, write `bytes -> Parsed` and name its suffixes in FORMATS."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePath

from daemon.parsers.archive import gunzip, unzip
from daemon.parsers.documents import docx, epub, pdf, pptx, xlsx
from daemon.parsers.outline import Parsed, cleaned
from daemon.parsers.records import json_document, json_lines, message, notebook, table
from daemon.parsers.symbols import code
from daemon.parsers.text import manual, markdown, plain, restructured
from daemon.parsers.web import html
from store.errors import ParseError

__all__ = ["FORMATS", "PARSER_VERSION", "Parsed", "parse_bytes"]

PARSER_VERSION = 1  # part of a generation's fingerprint: raise it when the same file gives other text than before

Parser = Callable[[bytes], Parsed]

FORMATS: Mapping[str, Parser] = {
    suffix: parser
    for parser, suffixes in {
        markdown: "md markdown mdown mkd mdx qmd rmd",
        restructured: "rst rest rst.txt",
        html: "html htm xhtml",
        pdf: "pdf",
        docx: "docx",
        pptx: "pptx",
        xlsx: "xlsx xlsm",
        epub: "epub",
        table: "csv tsv",
        json_document: "json geojson",
        json_lines: "jsonl ndjson",
        notebook: "ipynb",
        message: "eml",
        code: "py pyi pyx js mjs cjs jsx ts tsx go rs java kt kts c h cc cpp cxx hpp hh hxx cs rb php swift scala sh"
        " bash zsh fish lua pl pm sql r jl dart ex exs erl hs ml zig nim groovy ps1 m mm proto vb f90 tcl el clj",
        plain: "txt text log org adoc asciidoc tex bib toml yaml yml ini cfg conf css scss xml svg srt vtt diff patch",
    }.items()
    for suffix in suffixes.split()
}


def parse_bytes(data: bytes, name: str) -> Parsed:
    """Read a file's content by its name's suffix, else by what it begins with.

    Raises ParseError, with the reason, if it is damaged, encrypted, binary or in no format that memex reads.
    """
    base = PurePath(name).name
    if not data:
        return Parsed(base, ())
    if base.endswith(".gz") or data.startswith(b"\x1f\x8b\x08"):
        data, base = gunzip(data), base.removesuffix(".gz")
    parser = _by_suffix(base) or _by_content(data, base)
    try:
        return cleaned(parser(data), base)
    except (ParseError, MemoryError):
        raise
    except RecursionError:
        raise ParseError("nested too deeply to be read") from None
    except Exception as error:  # a damaged file can make its library raise anything
        what = parser.__name__.replace("_", " ")
        raise ParseError(f"cannot be read as {what}: {str(error) or type(error).__name__}") from error


def _by_suffix(base: str) -> Parser | None:
    parts = base.lower().split(".")
    return FORMATS.get(".".join(parts[-2:])) or (FORMATS.get(parts[-1]) if len(parts) > 1 else None)


def _by_content(data: bytes, base: str) -> Parser:
    start = data[:1024].lstrip().lower()
    if start.startswith(b"%pdf-"):
        return pdf
    if data.startswith(b"PK\x03\x04"):
        return _packed(data)
    if start.startswith((b"<!doctype html", b"<html")):
        return html
    if re.search(r"\.[1-9][a-z]*$", base.lower()) and start.startswith((b".", b"'\\\"")):
        return manual
    if start.startswith(b"#!"):
        return code
    return _text


def _text(data: bytes) -> Parsed:
    try:
        return plain(data)
    except ParseError:
        raise ParseError("not a format that memex reads") from None


def _packed(data: bytes) -> Parser:
    with unzip(data) as archive:
        names = set(archive.namelist())
    for member, parser in (
        ("word/document.xml", docx),
        ("ppt/presentation.xml", pptx),
        ("xl/workbook.xml", xlsx),
        ("META-INF/container.xml", epub),
    ):
        if member in names:
            return parser
    return _text
