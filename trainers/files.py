"""JSON files that are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

from store.durable import write_text


def write_json(path: Path, value: object) -> None:
    """`write_text` of a value as JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")
