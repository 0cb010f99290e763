"""What answers from a prompt: the local language model, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Generation:
    """One greedy answer. `seconds` is the wall-clock time of prompt and answer together."""

    text: str
    prompt_tokens: int
    new_tokens: int
    seconds: float


class Generator(Protocol):
    """A language model that answers chats."""

    @property
    def window(self) -> int:
        """Prompt and answer together may have at most this many tokens."""

    def count(self, text: str) -> int:
        """Tokens in a plain text."""

    def generate(
        self,
        messages: Sequence[dict[str, str]],
        max_new_tokens: int,
        on_token: Callable[[str], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Generation:
        """Answer greedily. `on_token` gets the text as it grows, piece by piece: stripped, the pieces are the answer.
        `stop` is asked before each token; what was said until then is the answer.
        """
