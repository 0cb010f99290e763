"""What models answered to evaluation items, kept: no incumbent, and no run that goes on after a kill, is asked twice.

JSON lines, one an answer: {"model", "prompt", "example", "text"}; `model` is the sha256 of an adapter's or the base's
weights, `prompt` that of the words around the example. Answers to other words are not those that it would give now.
"""

from __future__ import annotations

import json
from pathlib import Path

from store.durable import private
from trainers import prompt

FILE = "answers.jsonl"


class Answers:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[str, str], str] = {}
        self.added = 0  # by this process
        words = prompt.fingerprint()
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    one = json.loads(line)
                    if one.get("prompt") == words:
                        self._known[one["model"], one["example"]] = one["text"]
                except ValueError:
                    continue  # the last line, cut off by a kill

    def get(self, model: str, example: str) -> str | None:
        return self._known.get((model, example))

    def keep(self, model: str, answers: dict[str, str]) -> None:
        """Add a model's answers, by the examples' ids."""
        words = prompt.fingerprint()
        with open(self._path, "a", encoding="utf-8", opener=private) as opened:
            opened.write("\n")  # after a line that a kill cut off
            for example, text in answers.items():
                self._known[model, example] = text
                line = {"model": model, "prompt": words, "example": example, "text": text}
                opened.write(json.dumps(line) + "\n")
        self.added += len(answers)
