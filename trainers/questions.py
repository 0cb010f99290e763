"""A passage's text -> questions with known answers, without labels. Pure.

Four kinds, each with its answer verbatim in one sentence of the text: a cloze on a number, a name or an identifier; a
definition ("X is a ...", "X provides ...", or a manual page's "x - does this"); an entry: a line with a key and its
value, or a row of a table; a heading, answered by its section's first sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

_PARAGRAPH = re.compile(r"\n\s*\n|\n(?=\s*[-*•] )")
_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+(?=[A-Z\"'(`*\d])")
_DEFINITION = re.compile(
    r"^(?P<article>The |An? )?(?P<term>[\w./+-]+(?: [\w./+-]+){0,3}) (?:is|are) "
    r"(?P<answer>(?:an?|the|used to) [^.;:,()]{12,110})(?=[.;:,( ])"
)
_DEED = re.compile(
    r"^(?P<article>The |An? )?(?P<term>[\w./+-]+(?: [\w./+-]+){0,3}) "
    r"(?P<answer>(?:allow|contain|control|convert|copie|creat|defin|describ|display|encod|giv|hold|implement|list|make|"
    r"manage|open|print|provid|read|return|run|send|set|show|specifie|start|stop|stor|support|us|write)e?s "
    r"[^.;:()]{12,110})(?=[.;:( ])"
)
_NAME_LINE = re.compile(r"(?:^|\s)(?P<term>[\w.+]+(?:, [\w.+]+){0,2}) [-–—] (?P<answer>[a-z][^.;:]{8,90})$")
_CLOZE = re.compile(
    r"(?<![\w.\-])(?:"
    r"\d+(?:[.,]\d+)*"  # numbers and versions
    r"|[a-z]+(?:_[a-z0-9]+)+(?:\(\))?"  # identifiers
    r"|--[a-z][a-z-]+"  # options
    r"|[A-Z][A-Z_]{2,}[A-Z]"  # constants and acronyms
    r"|(?<=[a-z,] )[A-Z][a-z]{2,}(?: [A-Z][a-z]+)*"  # names within a sentence
    r")(?![\w\-])"
)
# The words after a blank belong to it, up to the clause's end: one token to learn from is too little for a small model.
_FOLLOWING = re.compile(r"(?: [\w'/+-]+){1,4}(?=[.,;:)](?:\s|$)|$)")
_PLAIN = re.compile(r"[(\"'*]*[A-Za-z][\w'/-]*[)\"'*.,:;!?]*$")
_VAGUE = re.compile(
    r"\b(it|its|this|that|these|those|there|which|what|who|he|she|they|we|you|one|here|default"
    r"|the|an?|and|or|if|when|where|while|because|since|for|from|with|see|look|note|each|any|all|some|no|not)\b",
    re.IGNORECASE,
)
_ENTRY = re.compile(r"^(?:[-*•] )?(?P<key>[\w./-]+(?: [\w./-]+){0,3}) ?[:=] (?P<answer>\S+(?: \S+){0,7})$")
_RULE = re.compile(r"[\s|:+=-]+")  # the line between a table's head and its rows
BLANK = "____"


@dataclass(frozen=True, slots=True)
class Draft:
    """A question on one sentence of a text; `answer` is verbatim in that sentence."""

    kind: str
    question: str
    answer: str
    sentence: int


def sentences(text: str) -> list[str]:
    """The text's sentences in order, with single spaces; paragraphs, list items, entries and rows end one too."""
    found: list[str] = []
    for paragraph in _PARAGRAPH.split(text):
        lines = [" ".join(line.split()) for line in paragraph.splitlines()]
        alone = list(takewhile(_stands_alone, lines))
        found += [*alone, *_SENTENCE_END.split(" ".join(lines[len(alone) :]))]
    return [part for part in found if part]


def window(parts: Sequence[str], at: int, words: int) -> str:
    """The sentence `at` with its neighbours, following ones first, up to about `words` words in all."""
    first = last = at
    size = len(parts[at].split())
    grew = True
    while grew:
        grew = False
        for step in (last + 1, first - 1):
            if 0 <= step < len(parts) and size + len(parts[step].split()) <= words:
                first, last, grew = min(first, step), max(last, step), True
                size += len(parts[step].split())
    return " ".join(" ".join(parts[first : last + 1]).split()[: 2 * words])


def drafts(text: str, headings: Sequence[str]) -> Iterator[Draft]:
    """Questions on a chunk, in the order of its sentences; the heading's last."""
    parts = sentences(text)
    head: list[str] = []
    for number, sentence in enumerate(parts):
        if sentence.startswith("|"):
            head = head or _cells(sentence)
            yield from _row(head, sentence, number)
            continue
        head = []
        entry = _ENTRY.match(sentence)
        if entry and not _VAGUE.search(entry["key"]):
            yield Draft("entry", f"What is the value of {entry['key']}?", entry["answer"].rstrip(".,;"), number)
            continue
        if len(sentence.split()) > 30 or _is_code(sentence):
            continue
        for pattern, asked in ((_DEFINITION, "What is {}?"), (_NAME_LINE, "What is {}?"), (_DEED, "What does {} do?")):
            found = pattern.search(sentence)
            if found and not _VAGUE.search(found["term"]):
                article = (found.groupdict().get("article") or "").lower()
                yield Draft("definition", asked.format(article + found["term"]), found["answer"].strip(), number)
        if len(sentence.split()) >= 8:
            for match in _CLOZE.finditer(sentence):
                answer = match.group() + (_FOLLOWING.match(sentence, match.end()) or [""])[0]
                if sentence.count(answer) == 1 and not _VAGUE.match(answer):
                    blanked = sentence[: match.start()] + BLANK + sentence[match.start() + len(answer) :]
                    yield Draft("cloze", f"Fill in the blank: {blanked}", answer, number)
                    break  # one blank a sentence: more would be the same question again
    if headings and parts:
        opening = next((n for n, part in enumerate(parts) if part.rstrip(":") not in headings), None)
        if opening is not None and 5 <= len(parts[opening].split()) <= 14:
            yield Draft("heading", f"What does the section {headings[-1]} begin with?", parts[opening], opening)


def _stands_alone(line: str) -> bool:
    """Whether a line is no part of a sentence: a table's row, or a key with its value."""
    return line.startswith("|") or _ENTRY.match(line) is not None


def _row(head: Sequence[str], sentence: str, number: int) -> Iterator[Draft]:
    """Questions on a table's row: what its first cell has in each other column."""
    cells = _cells(sentence)
    if cells == head or len(cells) != len(head) or _RULE.fullmatch(sentence):
        return
    for column, cell in zip(head[1:], cells[1:], strict=True):
        if column and cells[0] and cell and len(cell.split()) <= 10:
            yield Draft("entry", f"What is the {column} of {cells[0]}?", cell, number)


def _cells(row: str) -> list[str]:
    return [cell.strip(" `*") for cell in row.strip("| ").split("|")]


def _is_code(sentence: str) -> bool:
    """Whether fewer than two thirds of the words are plain ones, as in code and tables."""
    words = sentence.split()
    return 3 * sum(bool(_PLAIN.match(word)) for word in words) < 2 * len(words)
