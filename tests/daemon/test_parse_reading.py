"""Reading stays below the source's folder, refuses what is no regular file, and never gives half a file."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from daemon import reading
from daemon.reading import ChangedWhileRead, read_file
from store.errors import ParseError
from store.types import Stat

LIMIT = 1 << 20


@pytest.fixture
def root(tmp_path: Path):
    folder = tmp_path / "source"
    folder.mkdir()
    fd = os.open(folder, os.O_RDONLY)
    yield folder, fd
    os.close(fd)


def refused(fd: int, relative: bytes) -> str:
    with pytest.raises(ParseError) as error:
        read_file(fd, relative, LIMIT)
    return str(error.value)


def test_content_and_stat(root):
    folder, fd = root
    (folder / "a").mkdir()
    (folder / "a" / "b.txt").write_bytes(b"text")
    found = (folder / "a" / "b.txt").stat()
    assert read_file(fd, b"a/b.txt", LIMIT) == (b"text", Stat(4, found.st_mtime_ns, found.st_ino))
    (folder / "empty").touch()
    assert read_file(fd, b"empty", LIMIT)[0] == b""


@pytest.mark.parametrize("name", [b"new\nline", b"\xff\xfe not utf-8", b"  ", b"-rf", b"\xf0\x9f\x99\x82"])
def test_names(root, name):
    folder, fd = root
    with open(os.path.join(os.fsencode(folder), name), "wb") as file:
        file.write(b"x")
    assert read_file(fd, name, LIMIT)[0] == b"x"


def test_a_path_of_more_bytes_than_the_kernel_takes(root):
    _, fd = root
    parts = [b"d" * 250] * 20
    folder = os.dup(fd)
    for part in parts:
        os.mkdir(part, dir_fd=folder)
        inner = os.open(part, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    with open(os.open(b"f", os.O_WRONLY | os.O_CREAT, dir_fd=folder), "wb") as file:
        file.write(b"deep")
    os.close(folder)
    relative = b"/".join([*parts, b"f"])
    assert len(relative) > 4096
    assert read_file(fd, relative, LIMIT)[0] == b"deep"


def test_links_are_not_followed(root, tmp_path):
    folder, fd = root
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (folder / "file").symlink_to(tmp_path / "outside" / "secret")
    (folder / "folder").symlink_to(tmp_path / "outside")
    (folder / "loop").symlink_to("loop")
    assert "symbolic link" in refused(fd, b"file")
    assert "symbolic link" in refused(fd, b"folder/secret")
    assert "symbolic link" in refused(fd, b"loop")
    for path in (b"../outside/secret", b"/etc/passwd", b"a/../b", b"", b".", b"a//b"):
        assert "not a path below" in refused(fd, path)


def test_what_is_no_regular_file(root):
    folder, fd = root
    os.mkfifo(folder / "fifo")
    (folder / "dir").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        address = os.path.relpath(folder / "socket")
        listener.bind(address if len(address) < 100 else str(folder / "socket"))
        assert "socket" in refused(fd, b"socket")
    assert "FIFO" in refused(fd, b"fifo")
    assert "folder" in refused(fd, b"dir")


def test_device(root):
    folder, fd = root
    try:
        os.mknod(folder / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device needs the right to")
    try:
        assert "device" in refused(fd, b"null")
    except AssertionError:
        assert "cannot be read" in refused(fd, b"null")  # a mount with nodev


def test_a_sparse_file_of_2_gb_is_not_read(root):
    folder, fd = root
    with open(folder / "big", "wb") as file:
        file.truncate(2 << 30)
    assert refused(fd, b"big") == "2,048 MB is more than the limit of 1 MB"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(root):
    folder, fd = root
    (folder / "a").touch(mode=0)
    assert "Permission denied" in refused(fd, b"a")


def test_missing(root):
    _, fd = root
    with pytest.raises(FileNotFoundError):
        read_file(fd, b"missing", LIMIT)
    with pytest.raises(FileNotFoundError):
        read_file(fd, b"missing/too", LIMIT)


def replaced(path: Path) -> None:
    path.with_name("new").write_bytes(b"new text")
    path.with_name("new").replace(path)


def appended(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("change", [replaced, appended, lambda path: os.truncate(path, 2), Path.unlink])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_file_that_changes_while_it_is_read(root, monkeypatch, change, when):
    folder, fd = root
    path = folder / "a"
    path.write_bytes(b"old text")
    os.utime(path, ns=(1, 1))  # long ago, so that the change shows in the time
    real = reading._read

    def read(file: int, size: int) -> bytes:
        if when == "before":
            change(path)
        data = real(file, size)
        if when == "after":
            change(path)
        return data

    monkeypatch.setattr(reading, "_read", read)
    with pytest.raises(ChangedWhileRead):
        read_file(fd, b"a", LIMIT)


def test_no_descriptor_is_left_open(root):
    folder, fd = root
    (folder / "a").mkdir()
    (folder / "a" / "b").write_bytes(b"x")
    os.mkfifo(folder / "a" / "fifo")
    before = os.open(os.devnull, os.O_RDONLY)
    os.close(before)
    for _ in range(20):
        read_file(fd, b"a/b", LIMIT)
        refused(fd, b"a/fifo")
        refused(fd, b"a/b/c")
    after = os.open(os.devnull, os.O_RDONLY)
    os.close(after)
    assert after == before
