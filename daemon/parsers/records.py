"""CSV, JSON, notebooks and e-mail. Each record becomes a paragraph, so that chunks end between records."""

from __future__ import annotations

import contextlib
import csv
import email
import email.message
import email.policy
import io
import json
from collections.abc import Iterable
from typing import Any

from daemon.parsers.encoding import decode
from daemon.parsers.outline import Outline, Parsed
from daemon.parsers.text import markdown_text, plain
from daemon.parsers.web import html_text
from store.types import Section


def table(data: bytes) -> Parsed:
    """CSV and TSV, with whichever delimiter the first lines have most of."""
    text = decode(data)
    sample = text[:8192]
    delimiter = max(",;\t|", key=sample.count)
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))  # the process's limit: never lowered
    return Parsed("", (Section(rows_as_text(csv.reader(io.StringIO(text), delimiter=delimiter))),))


def rows_as_text(rows: Iterable[list[str]]) -> str:
    """Rows as `column: value; column: value` where the first row names the columns, else as `value; value`."""
    columns: list[str] | None = None
    records = []
    for row in rows:
        cells = [" ".join(cell.split()) for cell in row]
        if not any(cells):
            continue
        if columns is None:
            columns = cells if _are_names(cells) else []
            if columns:
                records.append("; ".join(columns))
                continue
        names = columns + [""] * (len(cells) - len(columns))
        shown = (f"{name}: {cell}" if name else cell for name, cell in zip(names, cells, strict=False) if cell)
        records.append("; ".join(shown))
    return "\n\n".join(records)


def _are_names(cells: list[str]) -> bool:
    names = [cell for cell in cells if cell]
    return len(names) > 1 and len(set(names)) == len(names) and not any(name[0].isdigit() for name in names)


def json_document(data: bytes) -> Parsed:
    """An object's keys are headings; a list's items are records. What is not valid JSON is read as plain text."""
    try:
        value = json.loads(decode(data))
    except (ValueError, RecursionError):
        return plain(data)
    outline = Outline()
    if isinstance(value, dict):
        for key, item in value.items():
            outline.heading(1, key)
            outline.text(_flat(item))
    else:
        items = value if isinstance(value, list) else [value]
        outline.text("\n\n".join(_flat(item) for item in items))
    return Parsed("", outline.sections())


def json_lines(data: bytes) -> Parsed:
    """A record a line; a line that is not valid JSON stands as it is."""
    records = []
    for line in decode(data).split("\n"):
        try:
            records.append(_flat(json.loads(line)))
        except (ValueError, RecursionError):
            records.append(line)
    return Parsed("", (Section("\n\n".join(records)),))


def _flat(value: Any) -> str:
    """`a.b: value` lines; lists of plain values on one line."""
    lines: list[str] = []
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        name, item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend((f"{name}.{key}" if name else key, inner) for key, inner in reversed(item.items()))
        elif isinstance(item, list) and any(isinstance(inner, dict | list) for inner in item):
            waiting.extend((name, inner) for inner in reversed(item))
        else:
            shown = ", ".join(map(_scalar, item)) if isinstance(item, list) else _scalar(item)
            lines.append(f"{name}: {shown}" if name else shown)
    return "\n".join(lines)


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def notebook(data: bytes) -> Parsed:
    """A Jupyter notebook's Markdown, code and printed output, under the Markdown's headings."""
    content = json.loads(decode(data))
    parts: list[str] = []
    for cell in content["cells"]:
        source = _lines(cell.get("source", ""))
        if cell.get("cell_type") != "code":
            parts.append(source)
            continue
        parts.append(_fenced(source))
        for output in cell.get("outputs", ()):
            shown = output.get("text") or output.get("data", {}).get("text/plain", "")
            parts.append(_fenced(_lines(shown)))
    return markdown_text("\n\n".join(filter(None, parts)))


def _lines(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _fenced(text: str) -> str:
    return f"~~~~~~\n{text}\n~~~~~~" if text.strip() else ""


def message(data: bytes) -> Parsed:
    """An e-mail's headers that people read, its text, and the names of its attachments."""
    mail = email.message_from_bytes(data, policy=email.policy.default)
    subject = str(mail["subject"] or "")
    heads = [f"{name}: {mail[name]}" for name in ("From", "To", "Cc", "Date", "Subject") if mail[name]]
    body = mail.get_body(("plain", "html"))
    text = ""
    if body is not None:
        payload = body.get_payload(decode=True)
        text = decode(payload) if isinstance(payload, bytes) and payload else ""
        charset = body.get_content_charset()
        if charset and isinstance(payload, bytes):
            with contextlib.suppress(UnicodeDecodeError, LookupError):  # raised if it declares what it is not
                text = payload.decode(charset)
        if body.get_content_subtype() == "html":
            text = html_text(text)
    names = [part.get_filename() or "" for part in mail.iter_attachments()]
    attached = "Attached: " + ", ".join(filter(None, names)) if any(names) else ""
    parts = ("\n".join(heads), text.replace("\r\n", "\n"), attached)
    outline = Outline()
    outline.heading(1, subject)
    outline.text("\n\n".join(filter(None, parts)))
    return Parsed(subject, outline.sections())
