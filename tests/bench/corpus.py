"""Text for the benchmarks that nobody here wrote and that is on every machine: Python's own standard library."""

from __future__ import annotations

import itertools
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path


@cache
def paragraphs() -> tuple[str, ...]:
    """Paragraphs of prose: the comments and docstrings of the standard library, cut at blank lines."""
    found: dict[str, None] = {}
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = file.read_text("utf-8", "replace")
        for quoted in text.split('"""')[1::2]:
            for paragraph in quoted.split("\n\n"):
                lines = " ".join(line.strip() for line in paragraph.splitlines()).strip()
                if 80 < len(lines) < 900:
                    found.setdefault(lines)
    return tuple(found)


def documents(count: int, paragraphs_each: int) -> Iterator[str]:
    """`count` different documents in Markdown."""
    stock = itertools.cycle(paragraphs())
    for number in range(count):
        parts = [f"# Document {number}"]
        for section in range(max(1, paragraphs_each // 4)):
            parts.append(f"## Section {section} of {number}")
            parts += [f"{next(stock)} ({number}.{section})" for _ in range(min(4, paragraphs_each))]
        yield "\n\n".join(parts) + "\n"


def fill(folder: Path, count: int, paragraphs_each: int, *, per_folder: int = 1000) -> list[Path]:
    """Write the documents into sub-folders, and return their paths."""
    written = []
    for number, text in enumerate(documents(count, paragraphs_each)):
        path = folder / f"{number // per_folder:03d}" / f"{number:06d}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        written.append(path)
    return written
