"""Files that look like keys or credentials: they have no place in a memory that answers questions (pure)."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

# Names by which the programs that use them know them.
NAMES = (
    *(
        ".env",
        ".env.*",
        "*.pem",
        "*.key",
        "*.p12",
        "*.pfx",
        "*.jks",
        "*.keystore",
        "*.kdbx",
        "*.ppk",
        "*.gpg",
        "*.ovpn",
    ),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", ".netrc", "_netrc", ".pgpass", ".my.cnf", ".htpasswd", ".npmrc"),
    *(".pypirc", ".git-credentials", ".dockercfg", "*.tfstate", "wallet.dat", "credentials", "secrets"),
    *(
        f"{stem}.{suffix}"
        for stem in ("credentials", "secrets")
        for suffix in ("json", "yml", "yaml", "toml", "ini", "csv")
    ),
)
NOT_SECRET = (".env.example", ".env.sample", ".env.template", "*.md", "*.rst", "*.py", "*.html")
HEAD = 64 * 1024  # bytes of a file that are looked at
CONTENT = (
    (re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----\s+[A-Za-z0-9+/=:\s-]{40}"), "a private key"),
    (re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b[\s\S]{0,200}\b[A-Za-z0-9/+]{40}\b"), "an AWS key"),
    (re.compile(rb"\bgh[pousr]_[A-Za-z0-9]{36}\b"), "a GitHub token"),
    (re.compile(rb"\bxox[baprs]-[0-9A-Za-z-]{20,}"), "a Slack token"),
)


def secret(name: str, data: bytes) -> str | None:
    """What kind of secret a file seems to be, by its name or by its first bytes; None for a file like any other."""
    base = name.rsplit("/", 1)[-1].lower()
    plain = any(fnmatchcase(base, pattern) for pattern in NOT_SECRET)
    if not plain and any(fnmatchcase(base, pattern) for pattern in NAMES):
        return "a file of keys or credentials, by its name"
    return next((kind for pattern, kind in CONTENT if pattern.search(data[:HEAD])), None)
