"""What a learning cycle would learn from, and what it must not."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon import operations, render
from daemon.cli import main
from daemon.collecting import answered, collect, plan
from daemon.evaluation import plot
from daemon.exporting import export_adapter
from daemon.quarantine import Quarantine
from daemon.settings import Refresh, Rule, Source
from store.errors import Corrupt, NotFound, UsageError
from store.memory import new_id
from store.types import Hit, Passage, Retrieval
from tests.daemon.conftest import World
from tests.trainers.conftest import make_example
from trainers import lora
from trainers.examples import is_kept_back, sides
from trainers.prompt import ABSENT

CREATURES = ("heron", "otter", "badger", "marten", "falcon", "lizard", "beetle", "salmon", "spider", "turtle")


def text(name: str, place: str) -> str:
    return (
        f"# The {name}\n\nThe {name} is an animal of the {place}. "
        f"The {name} was first described in {1700 + len(name)} by "
        f"Doctor {name.title()}son of Uppsala. It weighs {len(name)} kilograms and lives for {len(name) + 3} years.\n"
    )


@pytest.fixture
def zoo(world: World) -> World:
    for name in CREATURES:
        world.write(f"{name}.md", text(name, "river"))
        world.write(f"old/{name}-old.md", text(f"{name}saurus", "swamp"))
    world.reopen(sources=(Source(path=world.docs, rules=(Rule(pattern="old/**", tags=("draft",)),)),))
    world.sync()
    return world


def shown(world: World) -> set[str]:
    """The documents that any example shows, below the folder."""
    paths = {document_id: path for path, document_id in world.ids().items()}
    examples = collect(world.runtime, episode=0)
    return {paths[passage.document_id] for example in examples for passage in example.passages}


@pytest.mark.parametrize("pattern", ["tag:draft", "path:old/**", "path:*-old.md"])
def test_what_is_in_quarantine_is_searched_and_never_learned_from(zoo: World, pattern: str) -> None:
    assert any(path.startswith("old/") for path in shown(zoo)), "else the test would show nothing"
    zoo.reopen(refresh=Refresh(quarantine=(pattern,)))
    seen = shown(zoo)
    assert seen
    assert [path for path in seen if path.startswith("old/")] == []
    assert any("/old/" in hit["path"] for hit in operations.search(zoo.runtime, "heronsaurus swamp")["results"])


def test_what_was_learned_before_is_not_replayed(zoo: World) -> None:
    """Also of a document that is gone by now, and where the example does not show it."""
    memory, paths = zoo.runtime.memory, {document_id: path for path, document_id in zoo.ids().items()}
    run = memory.journal.begin_run(trigger="test", move=1, incumbent=None)
    memory.journal.add_examples(run, collect(zoo.runtime, episode=run))
    (zoo.docs / "old" / "heron-old.md").unlink()
    zoo.sync()
    replayed = collect(zoo.runtime, episode=run + 1)
    assert any(paths[one.document_id].startswith("old/") for one in replayed if one.episode == run)
    zoo.reopen(refresh=Refresh(quarantine=("path:old/**",)))
    for one in collect(zoo.runtime, episode=run + 1):
        touched = {one.document_id, *(passage.document_id for passage in one.passages)}
        assert [paths[document] for document in touched if paths[document].startswith("old/")] == []


def test_an_answer_taken_from_quarantine_teaches_nothing_unless_corrected(zoo: World) -> None:
    chunks = zoo.runtime.memory.chunks([zoo.ids()["old/otter-old.md"], zoo.ids()["otter.md"]])
    hits = tuple({"chunk_id": hit.chunk_id, "document_id": hit.document_id, "score": 1.0} for hit in chunks)
    (old,) = [hit for hit in chunks if "/old/" in hit.path]
    (new,) = [hit for hit in chunks if "/old/" not in hit.path]
    quarantine = Quarantine(zoo.runtime.memory, ("tag:draft",))

    def answered(cited: Hit, correction: str | None = None) -> Retrieval:
        extra = {"citations": [[1, cited.chunk_id]]}
        at = zoo.runtime.memory.clock()
        return Retrieval("x", at, "q", "base", 1, hits, "answer", correction=correction, extra=extra)

    assert quarantine.touches_answer(answered(old))
    assert not quarantine.touches_answer(answered(new))
    assert not quarantine.touches_answer(answered(old, "a correction"))
    assert not Quarantine(zoo.runtime.memory, ()).touches_answer(answered(old))


def test_the_latest_right_answer_to_a_question_is_the_one_that_counts(zoo: World) -> None:
    runtime = zoo.runtime
    for answer in ("5 kilograms", "7 kilograms"):
        asked = operations.search(runtime, "How much does the heron weigh?")
        operations.feedback(runtime, asked["retrieval_id"], "bad", answer)
    (said,) = answered(runtime, Quarantine(runtime.memory, ()), lambda question, k: [])
    assert said.answer == "7 kilograms"


def test_what_is_not_in_the_documents_is_learned_while_that_is_the_last_word(zoo: World) -> None:
    """Said of an answer or in a file; that of an earlier cycle is not replayed then."""
    memory = zoo.runtime.memory

    def denied() -> list[str]:
        return sorted({one.question for one in collect(zoo.runtime, episode=2) if one.kind == "denied"})

    def said(question: str, verdict: str, correction: str | None = None) -> None:
        found = memory.search(question, 3).hits
        hits = tuple({"chunk_id": hit.chunk_id, "document_id": hit.document_id, "score": 1.0} for hit in found)
        one = Retrieval(new_id(), memory.clock(), question, "base", 1, hits, ABSENT if correction is None else "Linné")
        memory.journal.record(memory.head(), one)
        memory.journal.feedback(one.retrieval_id, verdict, correction)

    asked = [f"Who painted the {name}?" for name in CREATURES]
    for question in asked[:8]:
        said(question, "good")
    for question in asked[8:]:
        said(question, "bad", ABSENT)
    (zoo.docs.parent / "asked.jsonl").write_text('{"question": "Who ate the heron?", "answers": []}\n')
    zoo.reopen(refresh=Refresh(minutes=60.0, questions=str(zoo.docs.parent / "asked.jsonl")))
    memory = zoo.runtime.memory
    before = denied()
    assert len(before) > 4
    assert set(before) <= {*asked, "Who ate the heron?"}
    assert set(before) & set(asked[:8])
    run = memory.journal.begin_run(trigger="test", move=1, incumbent=None)
    memory.journal.add_examples(run, collect(zoo.runtime, episode=run))
    for question in asked[::2]:
        said(question, "bad")
    for question in asked[1::2]:
        said(question, "bad", "Rubens")
    assert set(denied()) == set(before) - set(asked)


def test_quarantine_leaves_its_neighbours_on_their_side(zoo: World) -> None:
    """Those that all examples show beside what is in quarantine now, on a side that nothing else tells of."""
    memory, ids = zoo.runtime.memory, zoo.ids()
    bad = ids.pop("heron.md")
    earlier = [
        replace(
            make_example(number, "train" if number % 2 else "fresh"),
            document_id=document_id,
            passages=(Passage("a", document_id, "one"), Passage("b", bad, "two")),
        )
        for number, document_id in enumerate(ids.values())
    ]
    run = memory.journal.begin_run(trigger="test", move=1, incumbent=None)
    memory.journal.add_examples(run, earlier)
    zoo.reopen(refresh=Refresh(quarantine=("path:heron.md",)))
    now = sides(collect(zoo.runtime, episode=run + 1))
    assert len(now) > 5
    assert now.items() <= sides(earlier).items()


def test_a_whole_source_may_be_in_quarantine(zoo: World) -> None:
    zoo.reopen(refresh=Refresh(quarantine=("source:docs",)))
    assert collect(zoo.runtime, episode=0) == []


@pytest.mark.parametrize("pattern", ["draft", "tag:", "tags:x", ""])
def test_a_quarantine_says_of_what(pattern: str) -> None:
    with pytest.raises(ValueError, match="source:NAME, tag:NAME or path:GLOB"):
        Refresh(quarantine=(pattern,))


def test_a_plan_shows_each_example_as_it_is_only_when_asked(zoo: World) -> None:
    planned = plan(zoo.runtime)
    assert "whole" not in planned
    whole = plan(zoo.runtime, whole=True)["whole"]
    assert len(whole) == planned["examples"] > 0
    assert {"question", "passages", "target", "split", "gold"} <= whole[0].keys()
    kept_back = [one for one in collect(zoo.runtime, episode=0) if one.split == "train" and is_kept_back(one)]
    assert planned["counts"]["kept back"] == len(kept_back) > 0
    assert [one["question"] for one in planned["shown"] if one["split"] == "kept back"] == [
        one.question for one in kept_back
    ]


def test_examples_are_exported_as_lines(
    zoo: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*arguments: str) -> Any:
        monkeypatch.setattr("sys.argv", ["memex", *arguments, "--config", str(config)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0

    config, file = tmp_path / "memex.toml", tmp_path / "examples.jsonl"
    config.write_text(
        f'state_dir = "{zoo.settings.state_dir}"\n[[sources]]\npath = "{zoo.docs}"\n[embedding]\nmodel = "hashing"\n'
    )
    expected = plan(zoo.runtime)["examples"]
    zoo.close()
    assert command("refresh", "--dry-run", "--export", str(file)) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == expected
    assert all(one["target"] and one["passages"] for one in lines)
    assert command("refresh", "--export", str(file)) == 2
    assert "say --dry-run too" in capsys.readouterr().err
    assert command("refresh", "--dry-run", "--export", str(tmp_path / "nowhere" / "x")) == 2
    assert "nowhere" in capsys.readouterr().err
    zoo.open()


def test_an_adapter_is_exported_as_it_is_and_to_a_new_folder_only(world: World, tmp_path: Path) -> None:
    kept = world.settings.state_dir / "adapters" / "0003"
    kept.mkdir(parents=True)
    (kept / lora.WEIGHTS).write_bytes(b"weights")
    (kept / lora.CONFIG).write_text("{}")
    digest = hashlib.sha256(b"weights").hexdigest()
    (kept / lora.CARD).write_text(json.dumps({"sha256": digest, "base": {"name": "smollm2", "sha256": "0"}}))
    done = export_adapter(world.settings, 3, tmp_path / "out" / "three", merged=False)
    assert (done["base"], done["sha256"], done["merged"]) == ("smollm2", digest, False)
    assert {one.name for one in (tmp_path / "out" / "three").iterdir()} == {lora.WEIGHTS, lora.CONFIG, lora.CARD}
    assert "adapter 3, for smollm2" in render.adapter_export(done)
    with pytest.raises(UsageError, match="is there already"):
        export_adapter(world.settings, 3, tmp_path / "out", merged=False)
    with pytest.raises(NotFound, match="no adapter 4"):
        export_adapter(world.settings, 4, tmp_path / "four", merged=False)
    (kept / lora.WEIGHTS).write_bytes(b"other weights")
    with pytest.raises(Corrupt, match="sha256 differs"):
        export_adapter(world.settings, 3, tmp_path / "five", merged=False)
    assert not (tmp_path / "five").exists()


def cycle(number: int, decision: str, gain: float) -> dict[str, Any]:
    def evidence(candidate: float, incumbent: float) -> dict[str, float]:
        return {"candidate": candidate, "incumbent": incumbent, "items": 20}

    guards = {"anchor": evidence(0.4, 0.4), "abstain": evidence(0.8, 0.5), "general": evidence(-3.1, -3.0)}
    metrics = {"fresh_f1": evidence(0.3 + gain, 0.3), "guards": guards}
    return {"run": number, "decision": decision, "metrics": metrics}


def test_the_cycles_are_drawn(tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed: pip install 'memexd[plot]'")
    failed = {"run": 2, "decision": "failed", "metrics": {}}
    runs = [cycle(3, "reject", -0.1), failed, cycle(1, "promote", 0.3)]
    plot.draw_cycles(runs, tmp_path / "cycles.png")
    plot.draw_cycles(runs[1:], tmp_path / "fewer.png")
    drawn = (tmp_path / "cycles.png").read_bytes()
    assert drawn.startswith(b"\x89PNG")
    assert drawn != (tmp_path / "fewer.png").read_bytes()
    plot.draw_cycles([*runs, cycle(4, "control", 0.9)], tmp_path / "controlled.png")
    assert drawn == (tmp_path / "controlled.png").read_bytes()
    with pytest.raises(UsageError, match="no cycle has measured anything"):
        plot.draw_cycles([failed], tmp_path / "none.png")
