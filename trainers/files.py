"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write so that a reader, or a start after a power cut, sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else the rename itself may be lost
    finally:
        os.close(folder)


def write_json(path: Path, value: object) -> None:
    """`write_text` of a value as JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")
