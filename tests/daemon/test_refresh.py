"""A whole cycle, mostly with its real child: what is done after a kill, and what a control leaves out."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from safetensors.numpy import load_file, save_file

from daemon import operations, render
from daemon.collecting import PACES, collect, power, recipe
from daemon.exporting import export_adapter
from daemon.refresh import (
    MOST_RESUMES,
    MOST_TIMES,
    _is_undone,
    _job,
    _lost,
    folder_of,
    nothing_new_since,
    refresh,
    resumable,
)
from daemon.service import Service
from daemon.settings import Generator, Refresh, Retrieval, Rule, Source
from store.errors import NotFound, TrainingFailed
from store.types import Ended
from store.types import Retrieval as Kept
from tests.daemon.conftest import World, in_this_process
from tests.daemon.test_learning import CREATURES, text
from tests.trainers.conftest import make_example, tiny_path  # noqa: F401 - a fixture
from trainers import answers, cycle, examples, experts, gate, lora
from trainers.child import run_child
from trainers.lora import read_card
from trainers.prompt import ABSENT


@pytest.fixture
def farm(world: World, tiny_path: Path) -> World:  # noqa: F811
    for name in CREATURES:
        world.write(f"{name}.md", text(name, "river"))
    world.reopen(generator=Generator(model=str(tiny_path)), refresh=Refresh(minutes=1.0, max_steps=3))
    world.sync()
    return world


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training runs in this process, which has loaded what a child takes seconds to load."""
    monkeypatch.setattr("daemon.refresh.run_child", in_this_process)


def learn(world: World, stop: threading.Event | None = None, **how: Any) -> dict[str, Any]:
    return refresh(world.runtime, trigger="test", on_progress=lambda _: None, stop=stop or threading.Event(), **how)


def test_a_cycle_says_beforehand_what_it_can_find_out(farm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(items: int, documents: int) -> str:
        fresh = [replace(make_example(number % documents, "fresh"), example_id=str(number)) for number in range(items)]
        return power(farm.runtime, fresh)

    def trained(folder: Path, **how: Any) -> dict[str, Any]:
        stages.append("train")
        assert how["timeout"] > 60 * cycle.read_job(folder).minutes == 60 * MOST_TIMES
        raise TrainingFailed("far enough")

    stages: list[str] = []
    monkeypatch.setattr("daemon.refresh.run_child", trained)
    with pytest.raises(TrainingFailed, match="far enough"):
        refresh(farm.runtime, trigger="test", on_progress=lambda at: stages.append(at["stage"]), stop=threading.Event())
    assert (stages[0], stages[2]) == ("collect", "train")
    assert "fresh items from" in stages[1]
    farm.reopen(refresh=Refresh(minutes=6.0))
    full = recipe(farm.runtime).fresh
    assert told(full, 20).startswith(f"{full} fresh items from 20 documents show a gain of ")
    advised = int(told(full, 20).split("set refresh.minutes = ")[1])
    asked = []
    for minutes in (advised - 1, advised):
        farm.reopen(refresh=Refresh(minutes=minutes))
        asked.append(recipe(farm.runtime).fresh)
    assert asked[0] < gate.items_for(Refresh().min_gain) <= asked[1], "what is advised is enough, and no more than that"
    farm.reopen(refresh=Refresh(minutes=6.0))
    assert "ingest more: it takes " in told(full - 1, 20), "more minutes would not help"
    assert "too few to tell (at least 20 from 8)" in told(full, 7)
    assert "too few to tell" in told(19, 19)
    farm.reopen(refresh=Refresh(minutes=60.0))
    assert "set refresh.minutes" not in told(recipe(farm.runtime).fresh, 20)


def test_the_pace_of_a_cycle_plans_the_next_one(farm: World) -> None:
    """The first ends its evaluation when twice the minutes are over; the time that it took plans the next."""
    farm.reopen(refresh=Refresh(minutes=20.0))
    memory = farm.runtime.memory

    def fresh_after_a_cycle_of(**metrics: Any) -> int:
        run = memory.journal.begin_run(trigger="test", move=memory.head().move, incumbent=None)
        memory.journal.end_run(Ended(run, "inconclusive", "a test", metrics=metrics))
        return recipe(farm.runtime).fresh

    planned = recipe(farm.runtime).fresh
    assert planned == 96
    assert _job(farm.runtime, memory.head()).minutes == 40.0
    slower = fresh_after_a_cycle_of(seconds_per_answer=3.0)
    assert planned / 4 / PACES <= slower <= planned / 4
    assert fresh_after_a_cycle_of() == slower, "a cycle that asked too little says nothing"
    assert fresh_after_a_cycle_of(seconds_per_answer=2.9) == slower, "nearly the same asks the same"
    assert fresh_after_a_cycle_of(seconds_per_answer=0.75) == planned
    assert planned * 1.5 / PACES <= fresh_after_a_cycle_of(seconds_per_answer=0.5) <= planned * 1.5
    assert fresh_after_a_cycle_of(seconds_per_answer=40.0) == gate.LEAST_ITEMS, "fewer could decide nothing"
    assert fresh_after_a_cycle_of(seconds_per_answer=0.01) == 160, "more would be asked for nothing"
    farm.reopen(refresh=Refresh(minutes=60.0, min_gain=0.08))
    assert "more than a cycle asks: raise refresh.min_gain" in power(
        farm.runtime, [replace(make_example(number, "fresh"), example_id=str(number)) for number in range(160)]
    )


def test_a_cycle_that_was_stopped_is_gone_on_with(farm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, stop = farm.runtime.memory, threading.Event()

    def stopped_at_the_last_moment(folder: Path, **how: Any) -> dict[str, Any]:
        run_child(folder, **how)
        (folder / cycle.EVIDENCE).unlink()
        stop.set()
        raise TrainingFailed("stopped")

    with monkeypatch.context() as patched:
        patched.setattr("daemon.refresh.run_child", stopped_at_the_last_moment)
        with pytest.raises(TrainingFailed, match="stopped"):
            learn(farm, stop)
    (run,) = memory.journal.runs()
    folder = folder_of(farm.runtime, run.run)
    before = (folder / cycle.EXAMPLES).read_bytes()
    assert (folder / cycle.CHECKPOINT).is_file()
    assert run.finished_at is None
    farm.reopen()  # as after a kill
    assert [one.decision for one in farm.runtime.memory.journal.runs()] == ["interrupted"]
    done = learn(farm)
    assert done["run"] == run.run
    assert done["decision"] in ("promote", "reject", "inconclusive")
    assert (folder / cycle.EXAMPLES).read_bytes() == before, "the examples are those of before"
    assert done["metrics"]["steps"] == 3
    assert (folder.parent / answers.FILE).is_file()
    assert not (folder / cycle.CHECKPOINT).exists()


@pytest.mark.usefixtures("no_child")
def test_a_cycle_shows_what_it_was_judged_by(farm: World) -> None:
    run = learn(farm)["run"]
    shown = operations.refresh_show(farm.runtime, run, items=True)
    held_out = [one for one in farm.runtime.memory.journal.examples() if one.split != "train"]
    asked = {one.example_id: one for one in held_out}
    assert {one["example_id"] for one in shown["items"]} == set(asked)
    assert {one["set"] for one in shown["items"]} >= {"fresh", "noise"}
    changes = [one["candidate"] - one["incumbent"] for one in shown["items"]]
    assert changes == sorted(changes), "what got worse comes first"
    one = shown["items"][0]
    text = render.refresh(shown)
    assert f"[{one['set']}] {one['question']} -> {asked[one['example_id']].target}" in text
    assert f"incumbent  {one['incumbent']:.3f} " in text
    assert "items" not in operations.refresh_show(farm.runtime, run)
    with pytest.raises(NotFound, match=r"refresh 2 are kept: .* was a control.*leave --items out"):
        operations.refresh_show(farm.runtime, learn(farm, control="no-replay")["run"], items=True)


def test_a_cycle_that_is_interrupted_without_a_daemon_is_gone_on_with(
    farm: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Path, **how: Any) -> dict[str, Any]:
        (folder / cycle.CHECKPOINT).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("daemon.refresh.run_child", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn(farm)
    farm.reopen()
    begun = resumable(farm.runtime)
    assert begun is not None
    assert (folder_of(farm.runtime, begun.run) / cycle.CHECKPOINT).is_file()


@pytest.mark.usefixtures("no_child")
def test_after_a_change_of_the_model_the_old_adapter_is_left_out_and_a_cycle_begins_anew(
    farm: World, tmp_path: Path
) -> None:
    farm.reopen(retrieval=Retrieval(min_score=0.0))
    memory, done = farm.runtime.memory, learn(farm)
    memory.promote(done["adapter"], Ended(done["run"], "promote", "a test", done["adapter"]))
    question = "What does the heron weigh?"
    assert operations.ask(farm.runtime, question)["adapter"] == done["adapter"]
    model = shutil.copytree(farm.settings.generator.model, tmp_path / "another")
    weights = load_file(model / "model.safetensors")
    save_file({name: weight + 0.01 for name, weight in weights.items()}, model / "model.safetensors", {"format": "pt"})
    farm.reopen(generator=Generator(model=str(model)))
    asked = operations.ask(farm.runtime, question)
    assert asked["adapter"] is None
    assert any("trained on another base model" in one for one in asked["remarks"])
    later = learn(farm)
    memory = farm.runtime.memory
    card, before = (read_card(memory.adapter_folder(one["adapter"])) for one in (later, done))
    assert card["start"] is None
    assert card["base"]["sha256"] != before["base"]["sha256"]
    evidence = json.loads((folder_of(farm.runtime, later["run"]) / cycle.EVIDENCE).read_text())
    assert (evidence["incumbent"], evidence["warm"]) == (None, False)


@pytest.mark.usefixtures("no_child")
def test_the_schedule_leaves_out_a_cycle_that_would_learn_nothing_new(
    farm: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert nothing_new_since(farm.runtime) is None
    with monkeypatch.context() as patched:
        patched.setattr("daemon.refresh.run_child", Mock(side_effect=TrainingFailed("out of memory")))
        with pytest.raises(TrainingFailed):
            learn(farm)
    assert nothing_new_since(farm.runtime) is None, "what failed learned nothing"
    learn(farm)
    assert nothing_new_since(farm.runtime) is None, "at the pace that was seen it would be asked more"
    run = learn(farm)["run"]
    assert nothing_new_since(farm.runtime) == run
    ended = farm.runtime.memory.journal.run(run)
    assert not _is_undone(farm.runtime, ended)
    assert _is_undone(farm.runtime, replace(ended, decision="promote", adapter=99)), "forgotten with what it learned"
    assert _is_undone(farm.runtime, replace(ended, metrics={})), "the questions' side did not come to a decision"
    farm.reopen(refresh=Refresh(minutes=1.0, max_steps=3, rank=4))
    assert nothing_new_since(farm.runtime) is None, "it would be trained otherwise"
    farm.reopen(refresh=Refresh(minutes=1.0, max_steps=3))
    assert nothing_new_since(farm.runtime) == run
    farm.close()
    with caplog.at_level("INFO", "memex"):
        service = Service(farm.settings)
        try:
            assert service._refresh("schedule") == {}
        finally:
            service.runtime.close()
    assert f"nothing to learn that refresh {run} had not" in caplog.text
    farm.open()
    assert farm.runtime.memory.journal.runs()[0].run == run
    for name in CREATURES:
        asked = operations.search(farm.runtime, f"Who painted the {name}?")["retrieval_id"]
        operations.feedback(farm.runtime, asked, "bad", ABSENT)
    assert nothing_new_since(farm.runtime) is None, "a user said something"
    run = learn(farm)["run"]
    assert nothing_new_since(farm.runtime) == run
    document = farm.runtime.memory.journal.examples()[0].document_id
    path = next(path for path, one in farm.ids().items() if one == document)
    farm.reopen(refresh=Refresh(minutes=1.0, max_steps=3, quarantine=(f"path:{path}",)))
    assert nothing_new_since(farm.runtime) is None, "what was learned should not be"
    farm.reopen(refresh=Refresh(minutes=1.0, max_steps=3, questions="nowhere"))
    assert nothing_new_since(farm.runtime) is None, "the cycle says what is wrong"
    farm.reopen(refresh=Refresh(minutes=1.0, max_steps=3))
    assert nothing_new_since(farm.runtime) == run
    farm.write("ant.md", text("ant", "wood"))
    farm.write("hippopotamus.md", text("hippopotamus", "lake"))
    farm.sync()
    assert nothing_new_since(farm.runtime) is None


@pytest.mark.usefixtures("no_child")
def test_of_old_cycles_stays_what_served(farm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, kept = farm.runtime.memory, []
    monkeypatch.setattr("daemon.refresh.KEPT_CYCLES", 1)
    kept += [learn(farm)["adapter"] for _ in range(2)]
    run = memory.journal.runs()[0].run
    memory.promote(kept[1], Ended(run, "promote", "a test", kept[1]))
    kept += [learn(farm)["adapter"] for _ in range(2)]
    there = [memory.adapter_folder(adapter).is_dir() for adapter in kept]
    assert there == [False, True, False, True]
    assert {kept[1], kept[3]} <= set(memory.journal.adapters())
    assert [folder_of(farm.runtime, run).is_dir() for run in range(1, 5)] == [False, False, False, True]
    assert operations.doctor(farm.runtime)["problems"] == []


@pytest.mark.usefixtures("no_child")
def test_the_questions_side_learns_in_the_same_cycle(farm: World) -> None:
    done = learn(farm)
    told = done["metrics"]["query"]
    assert told["decision"] in ("promote", "reject", "inconclusive")
    assert told["reason"]
    assert "fresh_f1" in done["metrics"], "beside what the generator's part measured"


def test_the_questions_side_learns_where_the_generators_part_fails(
    farm: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(folder: Path, **how: Any) -> dict[str, Any]:
        (folder / "checkpoint-bird.safetensors").touch()
        raise TrainingFailed("out of memory")

    monkeypatch.setattr("daemon.refresh.run_child", ended)
    with pytest.raises(TrainingFailed, match="out of memory"):
        learn(farm)
    (run,) = farm.runtime.memory.journal.runs()
    assert (run.decision, run.reason) == ("failed", "out of memory")
    assert run.metrics["query"]["decision"] in ("promote", "reject", "inconclusive")
    assert list(folder_of(farm.runtime, run.run).glob("checkpoint*")) == [], "nothing goes on with it"


@pytest.mark.usefixtures("no_child")
def test_a_cut_cycle_whose_incumbent_serves_no_more_has_failed(farm: World) -> None:
    memory = farm.runtime.memory
    run = memory.journal.begin_run(trigger="test", move=memory.head().move, incumbent=7)
    farm.reopen()
    done = learn(farm)
    assert done["run"] != run
    assert farm.runtime.memory.journal.run(run).decision == "failed"
    assert "serves no more" in farm.runtime.memory.journal.run(run).reason


def test_a_cut_cycle_that_would_learn_what_is_not_wanted_any_more_has_failed(
    farm: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, journal = threading.Event(), farm.runtime.memory.journal

    def cut(folder: Path, **how: Any) -> dict[str, Any]:
        stop.set()
        raise TrainingFailed("stopped")

    monkeypatch.setattr("daemon.refresh.run_child", cut)
    with pytest.raises(TrainingFailed, match="stopped"):
        learn(farm, stop)
    shown = journal.examples()[0].passages[0].document_id
    path = next(path for path, document_id in farm.ids().items() if document_id == shown)
    model = shutil.copytree(farm.settings.generator.model, tmp_path / "another")
    farm.reopen()
    assert (begun := resumable(farm.runtime)) is not None
    generator, learning = farm.settings.generator, farm.settings.refresh
    for wanted, quarantine, why in (
        (Generator(model=str(model)), (), "it was for another generator.model"),
        (generator, (f"path:{path}",), "it learned from what is in quarantine now"),
    ):
        farm.reopen(generator=wanted, refresh=Refresh(quarantine=quarantine))
        assert _lost(farm.runtime, begun) == why
        assert resumable(farm.runtime) is None
    farm.reopen(generator=generator, refresh=learning)
    assert resumable(farm.runtime) == begun


@pytest.mark.usefixtures("no_child")
def test_what_is_forgotten_while_a_cycle_collects_is_not_learned(farm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = farm.runtime.memory

    def forgetful(*given: Any, **how: Any) -> list[Any]:
        made = collect(*given, **how)
        memory.forget([made[0].passages[0].document_id])
        return made

    monkeypatch.setattr("daemon.refresh.collect", forgetful)
    with pytest.raises(TrainingFailed, match="forgotten meanwhile; the next cycle begins anew"):
        learn(farm)
    assert memory.journal.examples() == []
    assert not folder_of(farm.runtime, 1).exists()


def test_what_is_forgotten_when_a_cycle_has_just_trained_is_not_kept(
    farm: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = farm.runtime.memory

    def forgetful(folder: Path, **how: Any) -> dict[str, Any]:
        evidence = in_this_process(folder, **how)
        memory.forget([read_card(folder / cycle.ADAPTER)["documents"][0]])
        return evidence

    monkeypatch.setattr("daemon.refresh.run_child", forgetful)
    with pytest.raises(TrainingFailed, match="forgotten meanwhile"):
        learn(farm)
    assert memory.journal.adapters() == []
    assert memory.journal.run(1).decision == "failed"


@pytest.mark.parametrize("shown", [True, False])
def test_what_went_on_from_what_is_forgotten_is_not_kept(
    farm: World, monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:
    """Whether the cycle shows it as well, or only the one that made what it went on from."""
    memory = farm.runtime.memory

    def winning(folder: Path, **how: Any) -> dict[str, Any]:
        evidence = in_this_process(folder, **how)
        return evidence | {"decision": {**evidence["decision"], "outcome": "promote"}}

    monkeypatch.setattr("daemon.refresh.run_child", winning)
    assert learn(farm)["decision"] == "promote"
    learned = read_card(memory.adapter_folder(1))["documents"]
    farm.write("otter.md", text("otter", "pond"))
    farm.sync()

    def forgetful(folder: Path, **how: Any) -> dict[str, Any]:
        evidence = winning(folder, **how)
        if not shown:
            runs = {run.run for run in memory.journal.runs()}
            monkeypatch.setattr("store.catalogue.forgetting.runs_without", lambda *_: runs)
        memory.forget([learned[0]])
        return evidence

    monkeypatch.setattr("daemon.refresh.run_child", forgetful)
    with pytest.raises(TrainingFailed, match="forgotten meanwhile"):
        learn(farm)
    assert memory.head().adapter is None
    assert memory.journal.adapters() == []
    assert list((farm.settings.state_dir / "adapters").iterdir()) == []


def test_a_cycle_that_memex_dies_of_is_not_gone_on_with_for_ever(farm: World) -> None:
    cut = farm.runtime.memory.journal.begin_run(trigger="test", move=farm.runtime.memory.head().move, incumbent=None)
    folder = folder_of(farm.runtime, cut)
    folder.mkdir(parents=True)
    (folder / cycle.JOB).write_text("{")  # the child cannot read it
    for _ in range(MOST_RESUMES):
        farm.reopen()
        assert resumable(farm.runtime) is not None
        stop = threading.Event()
        stop.set()  # as if memex ended: the run is left as it was
        with pytest.raises(TrainingFailed):
            learn(farm, stop)
    farm.reopen()
    assert resumable(farm.runtime) is None
    assert learn(farm)["run"] != cut
    ended = farm.runtime.memory.journal.run(cut)
    assert (ended.decision, folder.exists()) == ("failed", False)
    assert "gone on with 3 times, and cut off each time" in ended.reason


@pytest.mark.usefixtures("no_child")
def test_a_control_leaves_a_cut_cycle_to_be_gone_on_with(farm: World) -> None:
    memory = farm.runtime.memory
    cut, control = (
        memory.journal.begin_run(trigger=trigger, move=memory.head().move, incumbent=None)
        for trigger in ("schedule", "control aa")
    )
    for run in (cut, control):
        folder_of(farm.runtime, run).mkdir(parents=True)
        (folder_of(farm.runtime, run) / cycle.JOB).write_text("{}")
    farm.reopen()
    assert (resumed := resumable(farm.runtime)) is not None
    assert resumed.run == cut, "a control is never gone on with"
    learn(farm, control="no-replay")
    journal = farm.runtime.memory.journal
    assert journal.run(cut).decision == "interrupted"
    assert (folder_of(farm.runtime, cut) / cycle.JOB).is_file()
    assert journal.run(control).decision == "failed"
    assert not folder_of(farm.runtime, control).exists()


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize("control", ["aa", "padding", "no-distractors", "no-replay"])
def test_a_control_changes_nothing(farm: World, control: str) -> None:
    head = farm.runtime.memory.head()
    done = learn(farm, control=control)
    assert done["decision"] == "control"
    assert done["metrics"]["control"] == control
    assert "query" not in done["metrics"], "the questions' side is left alone"
    assert done["metrics"]["outcome"] in ("promote", "reject", "inconclusive")
    assert done["adapter"] is None
    assert farm.runtime.memory.head() == head
    assert farm.runtime.memory.journal.examples() == [], "and nothing of it is replayed"
    assert not folder_of(farm.runtime, done["run"]).exists()
    assert farm.runtime.memory.journal.runs()[0].trigger == f"control {control}"


def test_controls_leave_out_what_they_say(farm: World) -> None:
    farm.reopen(refresh=Refresh(minutes=4.0, max_steps=8, replay=0.5))
    memory = farm.runtime.memory
    run = memory.journal.begin_run(trigger="test", move=1, incumbent=None)
    memory.journal.add_examples(run, collect(farm.runtime, episode=run))

    def trained(control: Any) -> list[Any]:
        return [one for one in collect(farm.runtime, run + 1, control) if one.split == "train"]

    assert any(one.episode == run for one in trained(None))
    assert all(one.episode == run + 1 for one in trained("padding"))
    assert all(one.episode == run + 1 for one in trained("no-replay"))
    assert all(len(one.passages) == 1 for one in trained("no-distractors") if one.episode == run + 1)
    assert any(len(one.passages) > 1 for one in trained(None))


def test_what_is_called_bad_is_neither_replayed_nor_made_again_nor_asked_for(farm: World) -> None:
    farm.reopen(refresh=Refresh(minutes=4.0, max_steps=8, replay=0.5))
    journal, head = farm.runtime.memory.journal, farm.runtime.memory.head()
    run = journal.begin_run(trigger="test", move=1, incumbent=None)
    journal.add_examples(run, collect(farm.runtime, episode=run))

    def asked(split: str) -> list[tuple[str, str]]:
        made = [one for one in collect(farm.runtime, run + 1) if one.split == split and one.gold is not None]
        return sorted({(one.question, one.target) for one in made})

    before = {split: asked(split) for split in ("train", "anchor", "fresh")}
    for split, was in before.items():
        for (question, answer), verdict in zip(was[:2], ("good", "bad"), strict=True):
            said = Kept(f"{split}-{verdict}", datetime.now(UTC), question, "adapter", 1, (), f"{answer} [1]")
            journal.record(head, said)
            journal.feedback(said.retrieval_id, verdict)
    for split, was in before.items():
        assert was[1] not in asked(split)
        assert set(was) & set(asked(split)), "what was not judged is, or was called good"


def test_given_questions_are_learned_from(farm: World, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"question": "How heavy does the heron get?", "answers": ["as much as a cat", "5 kilograms"]}\n')
    farm.reopen(refresh=Refresh(questions=str(asked)))
    (given, *_) = [one for one in collect(farm.runtime, episode=1) if one.kind == "given" and one.gold is not None]
    assert (given.question, given.target) == ("How heavy does the heron get?", "5 kilograms")
    assert given.answers == ("5 kilograms", "as much as a cat"), "what the documents hold is taught, and each is right"
    assert "5 kilograms" in given.passages[given.gold or 0].text


@pytest.mark.usefixtures("no_child")
def test_experts_are_promoted_answer_and_are_rolled_back_with_their_adapter(
    farm: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few examples are enough here, and any gain promotes."""
    decide = gate.decide
    monkeypatch.setattr(experts, "ENOUGH", 1)
    monkeypatch.setattr(gate, "decide", lambda *given, **how: replace(decide(*given, **how), outcome="promote"))
    rules = tuple(Rule(pattern=f"{name}*", domain="bird") for name in ("heron", "falcon", "otter", "badger", "marten"))
    plain = learn(farm)
    assert (plain["decision"], "experts" in plain["metrics"]) == ("promote", False)
    for rank, start in ((4, None), (8, str(farm.runtime.memory.adapter_folder(plain["adapter"])))):
        farm.reopen(refresh=Refresh(minutes=1.0, max_steps=3, rank=rank))
        assert _job(farm.runtime, farm.runtime.memory.head()).start == start, "another shape begins a new one"
    farm.reopen(sources=(Source(path=farm.docs, domain="beast", rules=rules),))
    farm.sync()
    done = learn(farm)
    tried = done["metrics"]["experts"]
    assert tried["decision"] == "promote"
    assert set(tried["domains"]) <= {"bird", "beast"}
    assert f"experts: decision promote, reason {tried['reason']}" in render.refresh(done)
    assert list(folder_of(farm.runtime, done["run"]).glob("checkpoint*")) == []
    memory = farm.runtime.memory
    adapter = memory.adapter_folder(done["adapter"])
    assert set(lora.experts(adapter)) == set(tried["domains"])
    (domain, *_) = tried["domains"]

    def answered() -> Any:
        told = operations.ask(farm.runtime, "How much does the heron weigh?", domain=domain)
        kept = memory.journal.retrieval(told["retrieval_id"]).extra
        assert kept.get("experts", {}) == told["experts"]
        assert (f"(expert in {domain})" in render.ask(told)) is bool(told["experts"])
        return told["adapter"], kept.get("experts")

    assert answered() == (done["adapter"], {domain: 1.0})
    exported = export_adapter(farm.settings, done["adapter"], farm.docs.parent / "exported", merged=False)
    assert exported["sha256"] == lora.verify(farm.docs.parent / "exported")["sha256"]
    assert lora.experts(farm.docs.parent / "exported") == list(tried["domains"])
    operations.rollback(farm.runtime, f"before-adapter-{done['adapter']:04d}", only="model")
    assert answered() == (plain["adapter"], None)


def test_a_control_has_no_experts(farm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    farm.reopen(sources=(Source(path=farm.docs, domain="beast"),))
    farm.sync()
    given: list[Any] = []

    def stopped(folder: Path, **_: Any) -> dict[str, Any]:
        given.extend(examples.read(folder / cycle.EXAMPLES))
        raise TrainingFailed("stopped")

    monkeypatch.setattr("daemon.refresh.run_child", stopped)
    for control, domains in ((None, {"beast"}), ("no-replay", {""})):
        given.clear()
        with pytest.raises(TrainingFailed, match="stopped"):
            learn(farm, control=control)
        assert {passage.domain for one in given for passage in one.passages} == domains
