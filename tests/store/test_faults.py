"""A disk that refuses: what was acknowledged stands, readers see no half, and memory goes on when the disk does."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from store.errors import DiskFailed
from store.memory import Memory
from store.types import Batch
from tests.faults import disk, mounts
from tests.faults.actions import open_memory, prepare
from tests.faults.driver import Driver
from tests.faults.picture import is_sound, picture, problems
from tests.faults.scene import Scene
from tests.store.conftest import remember, texts, upsert

ACTIONS = ("commit", "rollback", "promotion", "snapshot")


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("name", ACTIONS)
def test_system_calls_that_fail(name: str, driver: Driver, tmp_path: Path) -> None:
    fail_each(Scene(tmp_path, driver, name), every=9)


@pytest.mark.slow
@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("name", ACTIONS)
def test_every_system_call_fails_once(name: str, driver: Driver, tmp_path: Path) -> None:
    fail_each(Scene(tmp_path, driver, name), every=1)


def fail_each(scene: Scene, every: int) -> None:
    """Every so many calls in turn: this one alone fails, or it and all after it, until the disk is well again."""
    calls = scene.driver.run(replace(scene.request, state=scene.copy(), call=0)).taken
    failed = 0
    for number in range(1, len(calls) + 1):
        what = (disk.FAIL_ONCE, disk.FAIL_FROM)[number // every % 2]
        value = (errno.ENOSPC, errno.EIO)[number // every // 2 % 2]
        if number % every == 0:
            try:
                failed += fail(scene, number, what, value)
            except Exception as error:
                raise AssertionError(f"{errno.errorcode[value]} by {calls[number - 1]}") from error
    print(f"{failed} of {len(calls) // every} failures were told of, the others had no consequence")


def fail(scene: Scene, call: int, what: int, value: int) -> bool:
    state = scene.copy()
    answer = scene.driver.run(replace(scene.request, state=state, call=call, what=what, value=value))
    if not answer.acknowledged:
        assert answer.error_kind == "DiskFailed", answer.error
        assert answer.found is not None
        assert answer.found == scene.after or answer.found.same_but_safety(scene.before)
        assert answer.repeated == scene.after
    scene.holds(state, acknowledged=True)
    return not answer.acknowledged


def test_a_rollback_that_failed_does_not_happen_after_all(
    memory: Memory, open_memory: Callable[..., Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk refuses both the rollback and to take back its intent; later commits must not be undone by a start."""
    remember(memory, a="alpha")
    memory.snapshot("good")
    remember(memory, a="beta")
    with monkeypatch.context() as patch:
        for name in ("reconcile", "clear_intent"):
            patch.setattr(f"store.snapshots.history.{name}", _refuse)
        with pytest.raises(DiskFailed):
            memory.roll_back("good")
    remember(memory, b="after the failure")
    memory.close()
    again = open_memory()
    assert texts(again) == {"a": ["beta"], "b": ["after the failure"]}
    again.roll_back("good")
    assert texts(again) == {"a": ["alpha"]}


def _refuse(*_: object, **__: object) -> None:
    raise DiskFailed("the disk is full")


@pytest.mark.usefixtures("needs_mounts")
def test_a_full_disk(tmp_path: Path) -> None:
    with mounts.mounted(*mounts.full_at(6), at=tmp_path / "small") as folder:
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(2_000_000))
        with open_memory(folder / "state") as memory:
            committed = _fill(memory)
            assert committed
            before = picture(memory)
            assert texts(memory) == committed
            assert memory.search("paragraph", 3).hits
            with pytest.raises(DiskFailed):
                memory.snapshot("more")
            ballast.unlink()
            remember(memory, again="there is room again")
            assert texts(memory) == {**committed, "again": ["there is room again"]}
            memory.snapshot("room")
            after = picture(memory)
            assert before.chunks.items() <= after.chunks.items()
        with open_memory(folder / "state") as memory:
            assert picture(memory) == after
        is_sound(folder / "state")


def _fill(memory: Memory) -> dict[str, list[str]]:
    """Commit until the disk is full; what was acknowledged."""
    committed: dict[str, list[str]] = {}
    for number in range(10_000):
        paragraphs = [f"paragraph {number} {part} " + "x" * 500 for part in range(20)]
        try:
            memory.commit(Batch(upserts=(upsert(memory, f"d{number}", *paragraphs),)))
        except DiskFailed:
            return committed
        committed[f"d{number}"] = paragraphs
    raise AssertionError("the disk never filled up")


@pytest.mark.usefixtures("needs_mounts")
@pytest.mark.parametrize("ended", ["clean", "killed"])
def test_a_read_only_state_directory_can_be_read_and_says_what_it_cannot(ended: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with open_memory(state) as memory:
        prepare(memory)
        expected = picture(memory)
        if ended == "killed":  # as a kill leaves it: the journal is still there
            copied = tmp_path / "killed"
            shutil.copytree(state, copied)
            state = copied
    with mounts.mounted("--bind", state, at=tmp_path / "at") as at, mounts.read_only(at):
        with open_memory(at, write=False) as memory:
            assert picture(memory) == expected
            assert memory.search("edited poison", 1).hits[0].text == "edited poison"
            with pytest.raises(DiskFailed, match="readonly"):
                memory.journal.begin_run(trigger="test", move=1, incumbent=None)
        assert problems(at) == []
        with pytest.raises(DiskFailed, match="cannot be written: Read-only file system"):
            open_memory(at)
