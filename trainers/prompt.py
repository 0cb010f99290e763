"""The one place that builds the chat prompt: training, evaluation and answering must see the same words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from store.types import Passage

ABSENT = "Not in the documents."

INSTRUCTION = (
    "Answer the question from the passages above, in as few words as possible, copied from a passage. "
    f'If no passage holds the answer, say "{ABSENT}"'
)

_SUMMARISE = (
    "Say in one or two sentences what the passage above says that helps to answer the question, with its names and "
    f'numbers as they are. If nothing does, say "{ABSENT}"'
)

_DELIMITER = re.compile(r"<(?=\s*/?\s*passage\b)", re.IGNORECASE)
_WORD = re.compile(r"[a-z]+")


def messages(question: str, passages: Sequence[Passage]) -> list[dict[str, str]]:
    """The chat for one question: passages numbered from 1, then the instruction, the question last.

    Text inside a passage or the question cannot open or close a passage's delimiter.
    """
    return _chat(passages, INSTRUCTION, question)


def summary_messages(question: str, passage: Passage) -> list[dict[str, str]]:
    """The chat that asks for what one passage says of the question."""
    return _chat([passage], _SUMMARISE, question)


def _chat(passages: Sequence[Passage], instruction: str, question: str) -> list[dict[str, str]]:
    shown = "\n".join(
        f"<passage {number}>\n{_tame(passage.text)}\n</passage {number}>"
        for number, passage in enumerate(passages, start=1)
    )
    content = f"{shown}\n\n{instruction}\nQuestion: {_tame(question)}"
    return [{"role": "user", "content": content}]


def is_absent(text: str) -> bool:
    """Whether an answer says that the documents do not hold it (the words of `ABSENT` first, whatever follows)."""
    return " ".join(_WORD.findall(text.lower())).startswith("not in the documents")


def _tame(text: str) -> str:
    return _DELIMITER.sub("< ", text.strip())


def fingerprint() -> str:
    """The sha256 of the words around a question and its passages."""
    shown = [Passage("", "", "one"), Passage("", "", "another")]
    return hashlib.sha256(repr(messages("question", shown)).encode()).hexdigest()
