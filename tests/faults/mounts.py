"""File systems of our own: a small one that fills up, one without writing, and one whose power can be cut."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

EXT4_IOC_SHUTDOWN = 0x8004587D
JOURNAL_KEPT, JOURNAL_LOST = 1, 2  # names without contents stay; or neither does


@contextmanager
def mounted(*arguments: str | Path, at: Path) -> Iterator[Path]:
    """Mount, as `mount ARGUMENTS AT` does, and unmount in the end."""
    at.mkdir(exist_ok=True)
    _run("mount", *arguments, at)
    try:
        yield at
    finally:
        try:
            _run("umount", at)
        except subprocess.CalledProcessError:  # something still has a file open there
            _run("umount", "--lazy", at)
            raise


@contextmanager
def read_only(mount: Path) -> Iterator[None]:
    """Let nobody write there, root neither."""
    _run("mount", "-o", "remount,bind,ro", mount)
    yield


def full_at(megabytes: int) -> tuple[str, ...]:
    """What to mount for a file system that holds so much and no more."""
    return ("-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs")


def grow(mount: Path, megabytes: int) -> None:
    """Make room on a mounted `full_at`."""
    _run("mount", "-o", f"remount,size={megabytes}m", mount)


def ext4(image: Path, megabytes: int = 64) -> Path:
    """A file that holds an empty ext4 file system, its owner's alone."""
    with image.open("wb") as made:
        made.truncate(megabytes << 20)
    _run("mkfs.ext4", "-q", "-F", image)
    with mounted("-o", "loop", image, at=image.with_name(f"{image.name}-mounted")) as root:
        root.chmod(0o700)
    return image


def cut(folder: Path, how: int) -> None:
    """Cut the power of the file system that holds `folder`: what is not on the disk by now never will be."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", how))
    finally:
        os.close(descriptor)


@cache
def why_no_mounts() -> str | None:
    """Why nothing can be mounted here; None where it can."""
    if os.geteuid() != 0:
        return "needs root, to mount a file system"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mounted(*full_at(1), at=Path(folder) / "at"):
                return None
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            return f"nothing can be mounted here ({_said(error)})"


@cache
def why_no_power_cuts() -> str | None:
    if why := why_no_mounts():
        return why
    if shutil.which("mkfs.ext4") is None:
        return "needs mkfs.ext4"
    with tempfile.TemporaryDirectory() as folder:
        try:
            image = ext4(Path(folder) / "image", 8)
            with mounted("-o", "loop", image, at=Path(folder) / "at") as at:
                cut(at, JOURNAL_LOST)
        except (subprocess.CalledProcessError, OSError) as error:
            return f"needs loop devices and ext4 ({_said(error)})"
    return None


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _said(error: Exception) -> str:
    return error.stderr.splitlines()[0] if isinstance(error, subprocess.CalledProcessError) else str(error)
