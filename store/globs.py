"""Globs of paths as regular expressions (pure)."""

from __future__ import annotations

import re


def glob_pattern(glob: str) -> str:
    """A regular expression for whole paths. A glob that does not begin with `/` fits at any depth."""
    parts = re.split(r"(\*\*/?|\*|\?)", glob)
    wild = {"**": ".*", "**/": "(.*/)?", "*": "[^/]*", "?": "[^/]"}
    pattern = "".join(wild.get(part) or re.escape(part) for part in parts)
    return f"^{'' if glob.startswith('/') else '(.*/)?'}{pattern}$"
