"""Old questions asked again, and answers that a person judges by single keys."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from daemon import operations, render_evaluation
from daemon.settings import Retrieval
from store.errors import NotFound
from store.types import Filters
from tests.daemon.conftest import World
from tests.daemon.test_evaluation import BOAT, BREAD, FACTS, serve

MEMEX = str(Path(sys.executable).with_name("memex"))


@pytest.fixture
def house(world: World) -> World:
    for name, text in FACTS.items():
        world.write(f"{name}.txt", text)
    world.sync()
    return world


def test_nothing_changed_nothing_differs(house: World) -> None:
    serve(house, lambda prompt: "40 minutes")
    for asked in (operations.search(house.runtime, BREAD, k=3), operations.ask(house.runtime, BREAD, k=3)):
        done = operations.replay(house.runtime, asked["retrieval_id"])
        assert (done["same_hits"], done["same_answer"], done["settings"]) == (True, True, {})
        assert [one["rank"] for one in done["results"]] == [{"from": n, "to": n} for n in (1, 2, 3)]
        assert {one["why"] for one in done["results"]} == {""}
        assert done["now"].get("answer") == asked.get("answer")
    journal = house.runtime.memory.journal
    assert journal.retrievals_since_refresh() == 2  # a replay is no question


def test_what_differs_and_why(house: World) -> None:
    serve(house, lambda prompt: "40 minutes" if "40 minutes" in prompt else "55 minutes")
    retrieval = operations.ask(house.runtime, BREAD, k=2)["retrieval_id"]
    house.write("bread.txt", "Bread bakes for 55 minutes at 200 degrees.")
    house.write("rolls.txt", "Bread rolls: bakes for how many minutes? Ten.")
    house.sync()
    house.reopen(retrieval=Retrieval(min_score=0.2))
    serve(house, lambda prompt: "40 minutes" if "40 minutes" in prompt else "55 minutes")
    done = operations.replay(house.runtime, retrieval)
    assert (done["recorded"]["answer"], done["then"]["answer"], done["now"]["answer"]) == (
        "40 minutes [1]",
        "40 minutes [1]",
        "55 minutes [2]",
    )
    assert (done["same_hits"], done["same_answer"]) == (True, True)
    why = {(Path(one["location"]).name, one["rank"]["from"], one["rank"]["to"]): one["why"] for one in done["results"]}
    assert why["rolls.txt", None, 1] == "document added"
    assert why["bread.txt", None, 2] == "document changed"
    assert why["bread.txt", 1, None] == "document changed"
    assert "others came or went" in why.values()
    assert done["settings"] == {"retrieval.min_score": {"from": 0.25, "to": 0.2}}
    text = render_evaluation.replay(done).replace(f"{house.docs}/", "")
    assert "recorded    40 minutes [1]" in text
    assert "now         55 minutes [2]" in text
    assert "entered at 1   rolls.txt  (document added)" in text
    assert "setting     retrieval.min_score: 0.25 -> 0.2" in text
    (house.docs / "bread.txt").unlink()
    house.sync()
    (gone,) = (one for one in operations.replay(house.runtime, retrieval)["results"] if "bread" in one["location"])
    assert (gone["rank"], gone["why"]) == ({"from": 1, "to": None}, "document removed")


def test_a_replay_asks_with_the_same_filters(house: World) -> None:
    assert operations.search(house.runtime, BREAD, source="docs")["results"]
    retrieval = operations.search(house.runtime, BREAD, tag="none")["retrieval_id"]
    kept = house.runtime.memory.journal.retrieval(retrieval)
    assert Filters(**kept.extra["filters"]) == Filters(tag="none")
    assert operations.replay(house.runtime, retrieval)["now"]["results"] == []


def test_a_pruned_version_is_said(house: World) -> None:
    retrieval = operations.search(house.runtime, BREAD)["retrieval_id"]
    kept = operations.search(house.runtime, BREAD)["version"]
    for number in range(70):
        house.write("new.txt", f"number {number}")
        house.sync()
    house.runtime.memory.maintain()
    with pytest.raises(NotFound, match=rf"retrieval {retrieval} of .* cannot be replayed: version {kept} of .* pruned"):
        operations.replay(house.runtime, retrieval)
    with pytest.raises(NotFound, match="no retrieval 'none'"):
        operations.replay(house.runtime, "none")


@pytest.fixture
def config(house: World) -> Path:
    """The settings of the world in a file; its memory has two answers, which nobody judged."""
    serve(house, lambda prompt: "40 minutes" if "Bread" in prompt.rsplit("Question: ", 1)[1] else "a mast")
    for question in (BREAD, BOAT):
        operations.ask(house.runtime, question)
    operations.search(house.runtime, BREAD)  # no answer: nothing to review
    path = house.docs.parent / "memex.toml"
    path.write_text(
        f"state_dir = {json.dumps(str(house.settings.state_dir))}\n[embedding]\nmodel = 'hashing'\n"
        f"[[sources]]\npath = {json.dumps(str(house.docs))}\n"
    )
    return path


def review(config: Path, keys: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [MEMEX, "review", "--config", str(config), *arguments]
    return subprocess.run(command, input=keys, capture_output=True, text=True, check=True, timeout=120)


def test_answers_are_judged_by_keys(house: World, config: Path) -> None:
    done = review(config, "?\nw\ntwo new ropes\nc\n", "--json")
    assert json.loads(done.stdout) == {"verdicts": {"wrong": 1, "correct": 1}, "left": 0}
    shown = done.stderr.replace(f"{house.docs}/", "")
    assert "--- 1 of 2" in shown
    assert f"Q: {BOAT}\nA: a mast [1]\n[1]  boat.txt\n     {FACTS['boat']}" in shown
    boat, bread = sorted(house.runtime.memory.journal.judged(10), key=lambda one: one.query, reverse=True)
    assert (boat.feedback, boat.fault, boat.correction) == ("bad", "wrong", "two new ropes")
    assert (bread.feedback, bread.fault, bread.correction) == ("good", None, None)
    assert review(config, "").stdout == "judged: none; 0 of those shown are left\n"


def test_skipping_quitting_and_the_end_of_the_input_leave_the_rest(house: World, config: Path) -> None:
    assert review(config, "s\nx\n\n").stdout == "judged: 1 wrong citation; 1 of those shown are left\n"
    assert [one.query for one in house.runtime.memory.journal.unjudged(10)] == [BOAT]
    for keys in ("q\n", "", "u"):
        assert review(config, keys).stdout.startswith(f"judged: {'1 unsupported' if keys == 'u' else 'none'}; ")
    assert house.runtime.memory.journal.unjudged(10) == []


def test_on_a_terminal_a_key_needs_no_return(house: World, config: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [MEMEX, "review", "--config", str(config)], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        os.close(theirs)
        os.write(ours, b"cq")
        assert process.stdout is not None
        assert process.stdout.read() == b"judged: 1 correct; 1 of those shown are left\n"
    os.close(ours)
    assert [one.query for one in house.runtime.memory.journal.judged(10)] == [BOAT]


def test_what_is_pruned_is_shown_as_far_as_the_head_has_it(house: World) -> None:
    serve(house, lambda prompt: "40 minutes")
    operations.ask(house.runtime, BREAD, k=2)
    (house.docs / "bread.txt").unlink()
    for number in range(70):
        house.write("new.txt", f"number {number}")
        house.sync()
    house.runtime.memory.maintain()
    (one,) = operations.unjudged(house.runtime)["answers"]
    assert (len(one["passages"]), one["gone"]) == (1, 1)
    assert "(1 passages are gone from memory)" in render_evaluation.for_review(one, 1, 1)
