"""Text -> chunks. Pure: the same sections and the same tokeniser always give the same chunks.

Boundaries are content-defined. A section that does not fit into one chunk is cut in two at one of its gaps, and each
part again, until all parts fit. The cut is made at a paragraph's end if there is one that leaves no small part, else at
a sentence's, a line's, a word's; and of several there where the hash of the word after the gap is smallest. A cut thus
depends on a word or two near it and on the cuts around it, never on a count from the top: an edit moves the cuts next
to it and no others.

What an edit of one word costs: its chunk, and the next one where its overlap shows the word. It costs three or four
where it moves a cut as well: it is the word that decides the cut, or it makes a part outgrow a chunk. That is so at
about one place in 200, and cannot be helped by a function of the text alone; tests/bench measures it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from store.types import Chunk, Section

CHUNKER_VERSION = 2  # part of a generation's fingerprint: raise it when the same text gives other chunks than before

Spans = Callable[[Sequence[str]], list[list[tuple[int, int]]]]
Positions = NDArray[np.int64]

_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\w+")
_GAPS = (  # the kinds of gap, strongest first, as patterns that end at the gap; last of all, any token's start is one
    re.compile(r"\n(?:[ \t\r]*\n)+"),  # a paragraph ends
    # a sentence ends, or a line that is not one of wrapped prose: code, list items, rows of a table
    re.compile(r"[.!?][\"')\]]*\s+(?=\S)|[。！？]+|(?<=[^\w\s,])\n|\n(?=[ \t]*(?:[-*+|]|\d+[.)])[ \t])"),
    re.compile(r"\n"),
    _SPACE,
)
_SENTENCE, _LINE = 1, 2  # indices of the above
_SEEN = 48  # characters after a gap that decide between it and other gaps
_STRETCH = 32  # characters that count as a token even where the tokeniser sees one token or none
_BLOCK, _BATCH = 1 << 15, 1 << 18  # characters per text and per call of `spans`; bounds the memory that spans take


def chunk(sections: Sequence[Section], spans: Spans, tokens: int, overlap: int) -> tuple[Chunk, ...]:
    """Cut sections into chunks whose `text` has at most `tokens` tokens each.

    `spans` gives for each text where its tokens lie. A chunk's text is its section's last heading, a blank line, up to
    `overlap` tokens (and no more than half a chunk) of what stands before it in the section, and its own part.
    Sections are never joined, except neighbours too small to be found on their own. Nothing is lost: every character
    that is not a space is in some chunk.
    """
    overlap = min(overlap, tokens // 2)
    sections = [section for section in _joined(sections, tokens) if section.text.strip()]
    prefixes = _prefixes(sections, spans, tokens // 4)
    pieces: list[_Piece] = []
    for section, ticks in zip(sections, _ticks([section.text for section in sections], spans), strict=True):
        prefix, taken = prefixes[section.headings[-1]] if section.headings else ("", 0)
        pieces += _pieces(section, ticks, prefix, tokens - taken, overlap)
    chunks: list[Chunk] = []
    begun: Section | None = None
    for piece in _fitting(pieces, spans, tokens):
        if piece.own.strip():
            fresh_at = piece.fresh_at if piece.section is begun else 0
            begun = piece.section
            chunks.append(Chunk(piece.rendered, len(chunks), begun.headings, begun.page, fresh_at))
    return tuple(chunks)


def text_of(chunks: Iterable[Chunk]) -> str:
    """The text that was cut into these chunks: in reading order, each heading once, nothing repeated.

    Exact but for blank space: between sections, and between chunks that share no overlap, stands a blank line.
    """
    return _continued(chunks, ()).removeprefix("\n\n")


def excerpt_of(chunks: Iterable[Chunk]) -> str:
    """The text of chunks that follow each other: the first as it is, then as `text_of` has it."""
    first, *rest = chunks
    return first.text + _continued(rest, first.headings)


def _continued(chunks: Iterable[Chunk], trail: tuple[str, ...]) -> str:
    """What chunks add to a text that ended below the headings of `trail`."""
    parts: list[str] = []
    for one in chunks:
        if one.fresh_at:
            repeated = one.text[: one.fresh_at]
            parts.append(repeated[len(repeated.rstrip()) :] + one.text[one.fresh_at :])
            continue
        same = next((i for i, (a, b) in enumerate(zip(trail, one.headings, strict=False)) if a != b), None)
        opened = one.headings[len(trail) if same is None else same :]
        trail = one.headings
        parts += (f"\n\n{part}" for part in (*opened, _without_heading(one)) if part)
    return "".join(parts)


def _without_heading(chunk: Chunk) -> str:
    """A section's first chunk without the heading, which may be cut short, that it begins with."""
    first, blank, rest = chunk.text.partition("\n\n")
    has_heading = blank and chunk.headings and first and chunk.headings[-1].strip().startswith(first)
    return rest if has_heading else chunk.text


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part [start, end) of a section that becomes a chunk; its overlap makes it show from `shown` on."""

    section: Section
    prefix: str
    shown: int
    start: int
    end: int
    sure: bool  # cannot have more tokens than a chunk may

    @property
    def own(self) -> str:
        return self.section.text[self.start : self.end]

    @property
    def rendered(self) -> str:
        # the first line keeps its indentation: it may be code
        return self.prefix + self.section.text[self.shown : self.end].rstrip().lstrip("\r\n")

    @property
    def fresh_at(self) -> int:
        """Where in `rendered` the part itself begins."""
        overlap = self.section.text[self.shown : self.start].lstrip("\r\n")
        return len(self.prefix) + len(overlap)


def _joined(sections: Iterable[Section], tokens: int) -> Iterator[Section]:
    """Neighbours of a few words each, under one parent heading and on one page, become one section."""

    def kin(section: Section) -> object:
        tiny = section.headings and len(section.text) <= tokens // 2
        return (section.page, section.headings[:-1]) if tiny else object()

    for _, group in groupby(sections, kin):
        members = list(group)
        if len(members) == 1:
            yield members[0]
        else:
            text = "\n\n".join(f"{member.headings[-1]}\n{member.text.strip()}" for member in members)
            yield Section(text, members[0].headings[:-1], members[0].page)


def _prefixes(sections: Iterable[Section], spans: Spans, limit: int) -> dict[str, tuple[str, int]]:
    """For each last heading: what its chunks begin with, at most `limit` tokens, and how many tokens that is."""
    titles = list(dict.fromkeys(section.headings[-1] for section in sections if section.headings))
    prefixes = {}
    for title, ticks in zip(titles, _ticks(titles, spans), strict=True):
        shown = title[: ticks[limit]] if len(ticks) > limit else title
        prefixes[title] = (f"{shown.strip()}\n\n", min(len(ticks), limit)) if shown.strip() else ("", 0)
    return prefixes


def _ticks(texts: Sequence[str], spans: Spans) -> list[Positions]:
    """For each text where its tokens start, with further ticks in long stretches that hold one token or none."""
    starts: list[list[Positions]] = [[np.empty(0, np.int64)] for _ in texts]
    for batch in _batches(texts):
        for (index, offset, _), found in zip(batch, spans([block for _, _, block in batch]), strict=True):
            starts[index].append(np.array([start for start, _ in found], np.int64) + offset)
    return [_filled(np.concatenate(parts), len(text)) for parts, text in zip(starts, texts, strict=True)]


def _batches(texts: Sequence[str]) -> Iterator[list[tuple[int, int, str]]]:
    """The texts as blocks (text's index, offset, block) that end between words, in batches of bounded size."""
    batch: list[tuple[int, int, str]] = []
    size = 0
    for index, text in enumerate(texts):
        offset = 0
        while offset < len(text):
            end = offset + _BLOCK
            if end < len(text):
                end = max(text.rfind("\n", offset + 1, end), text.rfind(" ", offset + 1, end)) + 1 or end
            batch.append((index, offset, text[offset:end]))
            size += end - offset
            offset = end
            if size >= _BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _filled(starts: Positions, length: int) -> Positions:
    bounds = np.concatenate([[0], starts, [length]])
    stretches = np.diff(bounds)
    (long,) = np.nonzero(stretches > _STRETCH)
    if not len(long):
        return starts
    extra = [np.arange(bounds[i] + _STRETCH, bounds[i + 1], _STRETCH) for i in long]
    return np.sort(np.concatenate([starts, *extra]))


class _Gaps:
    """The gaps of one text, by kind: where they are, and how many ticks lie before them."""

    def __init__(self, text: str, ticks: Positions) -> None:
        self.text = text
        self.ticks = ticks
        self._found: dict[int, tuple[Positions, Positions]] = {}
        self._hashes: dict[int, NDArray[np.uint32]] = {}
        self._next_words: dict[int, tuple[int, ...]] = {}

    def between(self, kind: int, start: int, end: int) -> tuple[Positions, Positions, int]:
        """The gaps of a kind strictly inside (start, end), their ticks, and the index of the first of them."""
        at, before = self._all(kind)
        first, last = at.searchsorted([start + 1, end])
        return at[first:last], before[first:last], int(first)

    def hashes(self, kind: int) -> NDArray[np.uint32]:
        """For each gap of a kind the hash of the first word after it: one word alone, so that few edits change it."""
        if kind not in self._hashes:
            after = (_WORD.search(self.text, at, at + _SEEN) for at in self._all(kind)[0].tolist())
            self._hashes[kind] = np.array([_hash(word[0]) if word else 0 for word in after], np.uint32)
        return self._hashes[kind]

    def next_words(self, at: int) -> tuple[int, ...]:
        """What breaks ties: the hashes of the words after the first one, of which the earlier ones weigh more. Most
        ties end with the second word, and then an edit of the others changes nothing."""
        if at not in self._next_words:
            words = islice(_WORD.finditer(self.text, at, at + _SEEN), 1, None)
            self._next_words[at] = tuple(_hash(word[0]) for word in words)
        return self._next_words[at]

    def _all(self, kind: int) -> tuple[Positions, Positions]:
        if kind not in self._found:
            if kind < len(_GAPS):
                at = np.array([match.end() for match in _GAPS[kind].finditer(self.text)], np.int64)
            else:
                at = np.unique(self.ticks)
            self._found[kind] = at, self.ticks.searchsorted(at)
        return self._found[kind]


def _hash(word: str) -> int:
    return crc32(word.encode("utf-8", "replace"))


def _pieces(section: Section, ticks: Positions, prefix: str, room: int, overlap: int) -> Iterator[_Piece]:
    text = section.text
    if len(ticks) <= room:
        yield _Piece(section, prefix, 0, 0, len(text), len(ticks) <= room - _slack(room))
        return
    gaps = _Gaps(text, ticks)
    previous = 0
    for start, end in _parts(gaps, room - overlap):
        shown = _overlap_start(gaps, previous, start, overlap)
        count = int(ticks.searchsorted(end) - ticks.searchsorted(shown))
        whole_words = all(at in (0, len(text)) or text[at - 1].isspace() for at in (shown, end))
        yield _Piece(section, prefix, shown, start, end, whole_words and count <= room - _slack(room))
        previous = start


def _slack(room: int) -> int:
    """How far below the room a piece's count makes it sure: two tokens for a tokeniser that counts the blank line after
    the heading, and a share for words that it sees otherwise in another text."""
    return 2 + room // 16


def _parts(gaps: _Gaps, room: int) -> Iterator[tuple[int, int]]:
    """Parts of at most `room` ticks each that make up the whole text, in order."""
    waiting = [(0, len(gaps.text))]
    while waiting:
        start, end = waiting.pop()
        low, high = (int(tick) for tick in gaps.ticks.searchsorted([start, end]))
        # not near the ends of a part, where small parts would be left
        margin = max(room // 3, 1)
        cut = _cut(gaps, start, end, low + margin, high - margin) if high - low > room else None
        if cut is None:
            yield start, end
        else:
            waiting += [(cut, end), (start, cut)]


def _cut(gaps: _Gaps, start: int, end: int, low: int, high: int) -> int | None:
    """Among the strongest gaps with `low` to `high` ticks before them the one with the smallest hash."""
    for kind in range(len(_GAPS) + 1):
        at, before, first = gaps.between(kind, start, end)
        left, right = before.searchsorted(low), before.searchsorted(high, side="right")
        if left < right:
            hashes = gaps.hashes(kind)[first + left : first + right]
            ties: list[int] = at[left:right][hashes == hashes.min()].tolist()
            if len(ties) > 1:
                least = min(map(gaps.next_words, ties))
                ties = [gap for gap in ties if gaps.next_words(gap) == least]
            # of equal texts (a log, a table) the middle one: halving keeps the work small
            return ties[len(ties) // 2]
    return None  # a single character of more tokens than a chunk may have


def _overlap_start(gaps: _Gaps, previous: int, start: int, overlap: int) -> int:
    """Where a chunk's overlap begins: a sentence's or line's start if that leaves half of it or more, else a word's.

    It never reaches beyond the chunk before, so that a changed word is in two chunks at the most.
    """
    end = int(gaps.ticks.searchsorted(start))
    first = max(int(gaps.ticks.searchsorted(previous)), end - overlap)
    if first >= end:
        return start
    reach = int(gaps.ticks[first])
    for kind in (_SENTENCE, _LINE):
        at, before, _ = gaps.between(kind, reach - 1, start)
        if len(at) and end - before[0] >= overlap / 2:
            return int(at[0])
    space = _SPACE.search(gaps.text, max(reach - 1, 0), start)
    return space.end() if space else start


def _fitting(pieces: Sequence[_Piece], spans: Spans, tokens: int) -> list[_Piece]:
    """The pieces, counted again where a tokeniser may see more tokens in a piece than in the whole, and halved then."""
    unsure = [index for index, piece in enumerate(pieces) if not piece.sure]
    if not unsure:
        return list(pieces)
    counts = dict(zip(unsure, map(len, _exact(pieces, unsure, spans)), strict=True))
    fitting: list[_Piece] = []
    for index, piece in enumerate(pieces):
        if counts.get(index, 0) <= tokens:
            fitting.append(piece)
        elif piece.shown < piece.start:
            fitting += _fitting([replace(piece, shown=piece.start)], spans, tokens)
        elif piece.end - piece.start > 1:
            middle = (piece.start + piece.end) // 2
            halves = [replace(piece, end=middle), replace(piece, shown=middle, start=middle)]
            fitting += _fitting(halves, spans, tokens)
        else:
            fitting.append(piece)
    return fitting


def _exact(pieces: Sequence[_Piece], unsure: Sequence[int], spans: Spans) -> Iterator[list[tuple[int, int]]]:
    for first in range(0, len(unsure), 256):
        yield from spans([pieces[index].rendered for index in unsure[first : first + 256]])
