"""Text for the benchmarks that nobody here wrote and that is on every machine: Python's own standard library."""

from __future__ import annotations

import ast
import itertools
import random
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

LONG = (300, 6000)  # characters of a docstring that makes a document


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


def docstrings(library: str, count: int) -> list[tuple[str, str]]:
    """(full name, document in Markdown) of `count` docstrings of an installed library, "" is the standard one, of its
    public modules, classes and functions, neither short nor long; drawn at random, and always the same."""
    folder = Path(sysconfig.get_path("purelib")) / library if library else Path(sysconfig.get_path("stdlib"))
    found: dict[str, str] = {}
    for file in sorted(folder.rglob("*.py")):
        parts = (*((library,) if library else ()), *file.relative_to(folder).with_suffix("").parts)
        if {"test", "tests", "site-packages", "dist-packages"} & set(parts):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        for name, text in _docstrings(tree, module):
            found.setdefault(text, name)
    pairs = [(name, text) for text, name in found.items()]
    random.Random(1).shuffle(pairs)
    fitting = [(name, text) for name, text in pairs if LONG[0] < len(text) < LONG[1]]
    return [(name, f"# {name}\n\n{text}\n") for name, text in fitting[:count]]


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node)):
        yield name, text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            yield from _docstrings(child, f"{name}.{child.name}")


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
