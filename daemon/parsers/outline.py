"""What every parser gives back, and the builder that turns headings and text into sections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from store.types import Section


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file as text with structure. A file without text has no sections.

    `metadata` holds what the file says of itself; known keys are `domain` and `tags` (joined with commas).
    """

    title: str
    sections: tuple[Section, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


class Outline:
    """Collects headings and text in the order of the file, and gives them back as sections."""

    def __init__(self) -> None:
        self._sections: list[Section] = []
        self._trail: list[tuple[int, str]] = []
        self._text: list[str] = []
        self._page: int | None = None
        self._bare = False  # the last heading has no text and no heading below it yet

    def heading(self, level: int, title: str) -> None:
        """A heading; level 1 is the outermost."""
        title = " ".join(title.split())
        self._close(level)
        while self._trail and self._trail[-1][0] >= level:
            self._trail.pop()
        if title:
            self._trail.append((level, title))
            self._bare = True

    def text(self, text: str) -> None:
        self._text.append(text)

    def page(self, number: int) -> None:
        self._close(None)
        self._page = number

    def sections(self) -> tuple[Section, ...]:
        self._close(0)
        return tuple(self._sections)

    def _close(self, level: int | None) -> None:
        text = "".join(self._text).strip("\n").rstrip()
        self._text.clear()
        titles = tuple(title for _, title in self._trail)
        if text.strip():
            self._sections.append(Section(text, titles, self._page))
            self._bare = False
        elif self._bare and level is not None and self._trail[-1][0] >= level:
            # a heading with nothing below it is text itself, or it would be lost
            self._sections.append(Section(titles[-1], titles[:-1], self._page))
            self._bare = False


def valid(text: str) -> str:
    """The text without what no table and no model takes: NUL and half surrogate pairs."""
    if "\0" in text:
        text = text.replace("\0", "")
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def cleaned(parsed: Parsed, name: str) -> Parsed:
    """`parsed` with valid text throughout, and with the file's name where it says no title."""
    return Parsed(
        valid(parsed.title.strip() or name),
        tuple(_valid_sections(parsed.sections)),
        {valid(key): valid(value) for key, value in parsed.metadata.items()},
    )


def _valid_sections(sections: Iterable[Section]) -> Iterable[Section]:
    for section in sections:
        if section.text.strip():
            yield Section(valid(section.text), tuple(valid(title) for title in section.headings), section.page)
