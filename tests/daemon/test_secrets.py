from __future__ import annotations

import pytest

from daemon.secrets import secret

KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAA\n"


@pytest.mark.parametrize(
    "name", [".env", "a/.env.local", "server.pem", "b/id_rsa", ".netrc", "credentials.json", "ID_RSA"]
)
def test_names_of_credentials_are_known(name: str) -> None:
    assert secret(name, b"")


@pytest.mark.parametrize(
    "data", [KEY, b"notes\n" + KEY, b"token: ghp_" + b"a1B2" * 9, b"AKIA" + b"A" * 16 + b" : " + b"x" * 40]
)
def test_keys_are_known_by_their_content(data: bytes) -> None:
    assert secret("notes.txt", data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("keys.md", b"# Keys\n\nHow to make a key: ssh-keygen."),
        ("env.md", b"the file .env"),
        (".env.example", b"PASSWORD="),
        ("guide.md", b"A key begins with -----BEGIN PRIVATE KEY----- and ends likewise."),
        ("monkey.txt", b"key"),
        ("credentials.7.gz", b"a manual page"),
    ],
)
def test_texts_about_secrets_are_no_secrets(name: str, data: bytes) -> None:
    assert secret(name, data) is None
