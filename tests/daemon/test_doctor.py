"""The doctor finds what is broken, and mends what can be mended."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from daemon.doctor import doctor, repair
from store.types import Batch, Ended
from tests.daemon.conftest import World


@pytest.fixture
def checked(world: World) -> World:
    """A memory with two snapshots and a few versions, in perfect health."""
    for number in range(5):
        world.write(f"{number}.txt", f"text number {number} that is long enough to be found in a file")
        world.sync()
        world.runtime.memory.snapshot(f"s{number}")
    world.runtime.memory.maintain()
    assert doctor(world.runtime, read_data=True)["problems"] == []
    return world


def the_problem(world: World, **how: Any) -> str:
    (problem,) = doctor(world.runtime, **how)["problems"]
    return str(problem)


def mended(world: World) -> list[str]:
    done = repair(world.runtime)
    assert done["problems"] == []
    assert doctor(world.runtime, read_data=True)["problems"] == []
    return list(done["mended"])


def table(world: World) -> Path:
    (folder,) = world.runtime.memory.vectors.folder.glob("*.lance")
    return folder


def test_a_lost_tag_is_put_back(checked: World) -> None:
    memory = checked.runtime.memory
    memory.vectors.untag(memory.head().generation, "s1")
    assert "snapshot s1: its version" in the_problem(checked)
    assert len(mended(checked)) == 1
    assert memory.vectors.tags(memory.head().generation)["s1"] == memory.state("s1").head.version


def test_a_tag_without_a_snapshot_goes(checked: World) -> None:
    memory = checked.runtime.memory
    memory.vectors.tag(memory.head().generation, "stray", memory.head().version)
    assert "the tag stray keeps a version" in the_problem(checked)
    assert len(mended(checked)) == 1


def test_a_state_that_is_offered_and_gone(checked: World) -> None:
    memory = checked.runtime.memory
    head = memory.head()
    memory.vectors.prune(head.generation, {head.version})
    assert "are offered and gone" in the_problem(checked)
    assert len(mended(checked)) == 1


def test_leftovers_of_a_write_that_was_cut_off(checked: World) -> None:
    (table(checked) / "data" / "leftover.lance").write_bytes(b"cut off")
    assert "1 files of writes that were cut off" in the_problem(checked)
    assert len(mended(checked)) == 1


def test_what_is_open_to_others_is_closed(checked: World) -> None:
    os.chmod(checked.settings.state_dir, 0o755)
    assert "is open to others (mode 0755)" in the_problem(checked)
    assert len(mended(checked)) == 1


def test_an_adapter_that_nobody_knows_goes(checked: World) -> None:
    (checked.runtime.memory.adapter_folder(7)).mkdir(parents=True)
    assert "is of no adapter that memory knows" in the_problem(checked)
    assert len(mended(checked)) == 1


def test_an_adapter_that_serves_must_be_whole(checked: World) -> None:
    memory = checked.runtime.memory
    run = memory.journal.begin_run(trigger="test", move=1, incumbent=None)
    number = memory.journal.add_adapter(run, base="base", sha256="0")
    memory.adapter_folder(number).mkdir(parents=True)
    memory.promote(number, Ended(run, "promote", "better", number))
    assert f"adapter {number}:" in the_problem(checked)
    assert repair(checked.runtime)["mended"] == []


@pytest.mark.parametrize("kind", ["data", "_versions", "_indices"])
def test_a_flipped_bit_is_found_by_reading_all(checked: World, kind: str) -> None:
    files = sorted(path for path in (table(checked) / kind).rglob("*") if path.suffix != ".json" and path.is_file())
    path = files[-1]  # of the versions the oldest: with the newest damaged it does not open at all
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    checked.reopen()
    problems = doctor(checked.runtime, read_data=True)["problems"]
    assert any(str(path) in problem and "sha256 differs" in problem for problem in problems)
    assert any(str(path) in problem for problem in repair(checked.runtime, read_data=True)["problems"])


def test_a_table_and_a_catalogue_that_differ(checked: World) -> None:
    connection = sqlite3.connect(checked.settings.state_dir / "catalogue.sqlite")
    with connection:
        connection.execute("UPDATE revisions SET content = 'another' WHERE path LIKE '%/3.txt'")
    connection.close()
    problems = doctor(checked.runtime)["problems"]
    assert {problem.split(":")[0] for problem in problems} == {"head", "snapshot s3", "snapshot s4"}
    assert repair(checked.runtime)["mended"] == []


def test_a_missing_file_is_named_and_not_papered_over(checked: World) -> None:
    for path in (table(checked) / "data").iterdir():
        path.unlink()
    checked.reopen()
    problems = doctor(checked.runtime, read_data=True)["problems"]
    assert any("head: version" in problem and "restore" in problem for problem in problems)


def test_it_writes_nothing_by_itself(checked: World) -> None:
    memory = checked.runtime.memory
    memory.vectors.untag(memory.head().generation, "s1")
    before = memory.head(), memory.vectors.versions(memory.head().generation)
    doctor(checked.runtime, read_data=True)
    assert (memory.head(), memory.vectors.versions(memory.head().generation)) == before
    memory.commit(Batch(removed=()))
