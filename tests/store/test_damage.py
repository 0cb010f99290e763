"""Damaged files: an error of ours that says what to do.

Lance keeps no checksum of its data: a flipped bit of a text or a vector that still parses is not seen here, and some
bits make it ask for so much memory that the process ends.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from store.errors import Corrupt
from store.memory import Memory
from store.summary import summarise
from tests.faults.actions import log_of, open_memory, prepare
from tests.faults.driver import USE, Driver, Request, use

CATALOGUE = "catalogue.sqlite"


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = tmp_path_factory.mktemp("damage") / "state"
    with open_memory(state, month=1) as memory:
        prepare(memory)
    return state


@pytest.fixture
def state(origin: Path, tmp_path: Path) -> Path:
    return copy(origin, tmp_path / "state")


def copy(origin: Path, state: Path) -> Path:
    shutil.copytree(origin, state)
    shutil.copyfile(log_of(origin), log_of(state))
    return state


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    file.write_bytes(data)


KINDS = (CATALOGUE, *(f"generations/*.lance/{kind}" for kind in ("data/*", "_versions/*.manifest", "_deletions/*")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit(kind: str, driver: Driver, origin: Path, tmp_path: Path) -> None:
    flip_and_use(driver, origin, tmp_path, kind, flips=6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_flipped_bits(kind: str, driver: Driver, origin: Path, tmp_path: Path) -> None:
    told = flip_and_use(driver, origin, tmp_path, kind, flips=100)
    assert told or kind == CATALOGUE  # most of what SQLite keeps there has no structure that could break


def flip_and_use(driver: Driver, origin: Path, folder: Path, pattern: str, flips: int) -> int:
    """How many of the flipped bits were told of. In a process of its own: over some, Lance ends the whole process."""
    rng = random.Random(1)
    files = sorted(path.relative_to(origin) for path in origin.glob(pattern))
    told = crashed = 0
    for number in range(flips):
        state = copy(origin, folder / str(number))
        file = state / rng.choice(files)
        flip(file, rng.randrange(8 * file.stat().st_size))
        answer = driver.run(Request(state, USE))
        assert answer.error_kind in (None, "Corrupt"), answer.error
        told += answer.error is not None
        crashed += not answer.killed  # the driver's own end of a use that went well
        shutil.rmtree(state)
    print(f"of {flips} flipped bits {told} were told of, {crashed} ended the process")
    return told


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_catalogue(share: float, state: Path) -> None:
    catalogue = state / CATALOGUE
    with catalogue.open("r+b") as opened:
        opened.truncate(int(share * catalogue.stat().st_size))
    for read in (lambda: summarise(catalogue), lambda: use(state)):
        with pytest.raises(Corrupt, match=r"catalogue\.sqlite.*backup"):
            read()


@pytest.mark.parametrize("kind", ["_versions/*.manifest", "data/*.lance"])
def test_files_that_are_gone(kind: str, state: Path) -> None:
    for file in state.glob(f"generations/*.lance/{kind}"):
        file.unlink()
    with pytest.raises(Corrupt, match="generation"):
        use(state)


def test_an_unreadable_version_that_was_acknowledged_is_not_put_aside(state: Path) -> None:
    with open_memory(state) as memory:
        head = memory.head()
    (newest,) = state.glob(f"generations/*.lance/_versions/{2**64 - 1 - head.version}.manifest")
    newest.write_bytes(b"")
    with pytest.raises(Corrupt, match="backup"):
        open_memory(state)
    assert newest.exists()


def test_the_lock_is_free_after_a_start_that_failed(state: Path, origin: Path) -> None:
    (state / CATALOGUE).write_bytes(b"not a database at all" * 100)
    with pytest.raises(Corrupt):
        open_memory(state)
    shutil.copyfile(origin / CATALOGUE, state / CATALOGUE)
    with open_memory(state) as memory:
        assert isinstance(memory, Memory)
