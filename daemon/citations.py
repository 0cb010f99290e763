"""Checking an answer against the passages that it was made from (pure)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from store.types import Passage
from store.words import COMMON

SUPPORTED = 0.6  # the share of an answer's content words that its passage must hold
MARK = re.compile(r"\[(\d{1,2})\]")
WORD = re.compile(r"[^\W_]+(?:[.:'-][^\W_]+)*")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
SAID_OF_ANSWERS = COMMON | {"yes", "answer", "passage"}


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage (numbered from 1) that holds what the answer says, and its sentence that holds most of it."""

    number: int
    passage: Passage
    quote: str
    support: float  # share of the answer's content words in the passage, 0 to 1


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer with the citations that hold, and remarks on those that do not."""

    text: str
    citations: tuple[Citation, ...]
    remarks: tuple[str, ...]


def check(answer: str, passages: Sequence[Passage]) -> Checked:
    """Keep the citations that hold; where the answer cites none that does, find the passage that supports it.

    An answer without any citation in the result is held by no passage. The text carries its citations as `[1]`.
    """
    claimed = [int(number) for number in MARK.findall(answer)]
    plain = " ".join(MARK.sub("", answer).split())
    words = content_words(plain)
    remarks, kept = [], []
    for number in dict.fromkeys(claimed):
        if not 1 <= number <= len(passages):
            remarks.append(f"[{number}] names no passage")
            continue
        citation = _cite(number, passages[number - 1], words)
        if citation.support >= SUPPORTED:
            kept.append(citation)
        else:
            remarks.append(f"[{number}] does not hold what the answer says")
    if not kept and words:
        best = max((_cite(n, p, words) for n, p in enumerate(passages, start=1)), key=lambda c: c.support, default=None)
        if best is not None and best.support >= SUPPORTED:
            kept.append(best)
    marks = "".join(f"[{citation.number}]" for citation in kept)
    return Checked(f"{plain} {marks}".strip(), tuple(kept), tuple(remarks))


def content_words(text: str) -> list[str]:
    """The words that carry meaning, lower case, each once, in order. Numbers always count."""
    words = (word.lower() for word in WORD.findall(text))
    return list(dict.fromkeys(word for word in words if word not in SAID_OF_ANSWERS))


def _cite(number: int, passage: Passage, words: Sequence[str]) -> Citation:
    held = set(content_words(passage.text))
    missing_number = any(word[0].isdigit() and word not in held for word in words)
    support = 0.0 if missing_number or not words else sum(word in held for word in words) / len(words)
    wanted = set(words)
    sentences = [sentence.strip() for sentence in SENTENCE_END.split(passage.text) if sentence.strip()]
    quote = max(sentences, key=lambda sentence: len(wanted & set(content_words(sentence))), default="")
    return Citation(number, passage, quote, support)
