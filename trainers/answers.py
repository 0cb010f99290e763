"""What models answered to evaluation items, kept: no incumbent, and no run that goes on after a kill, is asked twice.

JSON lines, one an answer: {"model", "example", "text"}; `model` is the sha256 of an adapter's or the base's weights.
"""

from __future__ import annotations

import json
from pathlib import Path

from store.durable import private

FILE = "answers.jsonl"


class Answers:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[str, str], str] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    one = json.loads(line)
                    self._known[one["model"], one["example"]] = one["text"]
                except ValueError:
                    continue  # the last line, cut off by a kill

    def get(self, model: str, example: str) -> str | None:
        return self._known.get((model, example))

    def keep(self, model: str, answers: dict[str, str]) -> None:
        """Add a model's answers, by the examples' ids."""
        with open(self._path, "a", encoding="utf-8", opener=private) as opened:
            opened.write("\n")  # after a line that a kill cut off
            for example, text in answers.items():
                self._known[model, example] = text
                opened.write(json.dumps({"model": model, "example": example, "text": text}) + "\n")
