"""What a request's body may hold, whatever the operation."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

LONGEST_TEXT = 8192  # characters of one text; the models and SQLite's patterns read less than a body may hold


class Body(BaseModel):
    """Arguments as JSON has them: a number written as text, or a float, is not quietly taken for an integer."""

    model_config = ConfigDict(strict=True)

    @field_validator("*")
    @classmethod
    def _readable(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                check_text(text)
        return value


def check_text(text: str) -> None:
    """Raises ValueError when it is too long or half a character."""
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"longer than {LONGEST_TEXT} characters")
    if text != text.encode("utf-8", "ignore").decode():
        raise ValueError("not Unicode: it holds half of a surrogate pair")
