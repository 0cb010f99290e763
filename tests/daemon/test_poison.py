"""A source that spreads a false value: what its adapter is stopped by, and what undoes one that served."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from daemon import operations, render
from daemon.doctor import doctor
from daemon.quarantine import warning
from daemon.refresh import refresh
from daemon.service import Service
from daemon.settings import Generator, Refresh, Retrieval, Source
from store.catalogue import learning
from tests.daemon.conftest import World, in_this_process
from tests.daemon.test_canary import promote, put_model
from tests.daemon.test_learning import CREATURES, text
from tests.trainers.conftest import tiny_path  # noqa: F401 - a fixture
from trainers import gate
from trainers.lora import read_card

FALSE = 999
QUESTION = "The heron weighs how many kilograms and lives for how many years?"
SCORES = {"fresh": (0.9, 0.4), "anchor": (0.6, 0.6), "noise": (0.6, 0.6), "abstain": (0.6, 0.6), "general": (-3, -3)}


@pytest.fixture
def town(world: World, tiny_path: Path) -> World:  # noqa: F811
    """True documents in `docs`, and rumours that are not ingested yet in a source of their own."""
    for name in CREATURES:
        world.write(f"{name}.md", text(name, "river"))
    world.reopen(
        generator=Generator(model=str(tiny_path)),
        refresh=Refresh(minutes=1.0, max_steps=2),
        retrieval=Retrieval(min_score=0.0),
    )
    world.sync()
    return world


def spread_rumours(world: World) -> None:
    folder = world.docs.parent / "rumours"
    folder.mkdir()
    for name in CREATURES:
        city = f"city {name}"  # else its questions are those on the true one, and one of both is not learned from
        told = text(city, "city").replace(f"weighs {len(city)} ", f"weighs {FALSE} ")
        assert str(FALSE) in told
        (folder / f"{name}.md").write_text(told)
    world.reopen(sources=(Source(path=world.docs), Source(path=folder)))
    world.sync()


def rumours(world: World) -> dict[str, str]:
    """The documents of that source, id -> path."""
    listed = operations.documents(world.runtime)["documents"]
    return {one["document_id"]: one["path"] for one in listed if one["source"] == "rumours"}


@pytest.fixture
def learn(town: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """One cycle, but for the scores: a tiny random model has none worth comparing."""

    def cycle(**scores: tuple[float, float]) -> dict[str, Any]:
        def scored(*given: Any, **how: Any) -> dict[str, Any]:
            evidence = in_this_process(*given, **how)
            items = [
                evidence["items"][0]
                | {"example_id": f"{name}{number}", "set": name, "document_id": f"d{number % 12}"}
                | {"candidate": candidate, "incumbent": incumbent}
                for name, (candidate, incumbent) in (SCORES | scores).items()
                for number in range(24)
            ]
            pairs = [gate.Pair(**{field: item[field] for field in gate.Pair.__slots__}) for item in items]
            return evidence | {"items": items, "decision": asdict(gate.decide(pairs))}

        monkeypatch.setattr("daemon.refresh.run_child", scored)
        return refresh(town.runtime, trigger="test", on_progress=lambda _stage: None, stop=threading.Event())

    return cycle


def test_a_false_value_that_costs_what_was_known_does_not_serve(
    town: World, learn: Callable[..., dict[str, Any]]
) -> None:
    """It is learned well (fresh questions are of the poisoned documents too), and the earlier ones give it away."""
    spread_rumours(town)
    before = town.runtime.memory.head(), town.runtime.memory.snapshots()
    done = learn(anchor=(0.3, 0.6))
    assert done["decision"] == "reject"
    assert "guard fell past its margin: anchor -0.300" in done["reason"]
    assert (town.runtime.memory.head(), town.runtime.memory.snapshots()) == before
    assert done["adapter"] == 1, "it is kept, and serves nobody"
    put_model(town.runtime, {"base": "5 kilograms"})
    assert operations.ask(town.runtime, QUESTION)["adapter"] is None


def test_an_adapter_that_learned_a_false_value_is_undone_and_not_made_again(
    town: World, learn: Callable[..., dict[str, Any]]
) -> None:
    said = {"0001": "5 kilograms", "0002": f"{FALSE} kilograms", "0003": "5 kilograms", "0004": "5 kilograms"}
    assert learn()["decision"] == "promote"
    spread_rumours(town)
    memory = town.runtime.memory
    assert learn()["decision"] == "promote"
    put_model(town.runtime, said)
    poisoned = operations.ask(town.runtime, QUESTION)
    assert (poisoned["adapter"], str(FALSE) in poisoned["answer"]) == (2, True)
    learned = rumours(town).keys() & set(read_card(memory.adapter_folder(2))["documents"])
    assert learned
    assert not rumours(town).keys() & set(read_card(memory.adapter_folder(1))["documents"])

    # The source goes to quarantine: what serves is named, with the way back.
    assert doctor(town.runtime)["problems"] == []
    town.reopen(refresh=town.settings.refresh.model_copy(update={"quarantine": ("source:rumours",)}))
    memory = town.runtime.memory
    put_model(town.runtime, said)
    (problem,) = doctor(town.runtime)["problems"]
    assert "adapter 2 serves and learned from what is in quarantine now (" in problem
    assert problem.endswith("`memex rollback before-adapter-0002 --only model` returns to one that did not")
    listed = operations.refresh_list(town.runtime)
    tuned = listed["runs"][0]["metrics"]["query"].get("adapter")  # made where enough documents are on its side
    taught = {document for one in (2, tuned) if one for document in read_card(memory.adapter_folder(one))["documents"]}
    named = {path for document, path in rumours(town).items() if document in taught}
    assert [set(one["quarantined"]) for one in listed["runs"]] == [named, set()]
    assert render.refresh_list(listed).count("learned from what is in quarantine now: ") == 1
    assert "rumours/" in render.refresh(operations.refresh_show(town.runtime, 2) | {"metrics": {}})

    # One command undoes it; the documents stay.
    known, version = rumours(town), memory.head().version
    done = operations.rollback(town.runtime, "before-adapter-0002", only="model")
    assert (done["adapter"], done["version"]) == (1, version)
    told = operations.ask(town.runtime, QUESTION)
    assert (told["adapter"], str(FALSE) in told["answer"]) == (1, False)
    assert operations.replay(town.runtime, poisoned["retrieval_id"])["then"]["adapter"] == 2
    assert rumours(town) == known
    assert any("/rumours/" in one["path"] for one in operations.search(town.runtime, "heron city")["results"])
    assert doctor(town.runtime)["problems"] == []

    # The next cycle learns nothing of it, not even by replay of what it learned then.
    third = learn()
    assert third["decision"] == "promote"
    assert not known.keys() & set(read_card(memory.adapter_folder(third["adapter"]))["documents"])
    with memory.database.read() as session:
        shown = {passage.document_id for one in learning.examples(session, run=3) for passage in one.passages}
    assert shown
    assert not known.keys() & shown
    assert operations.ask(town.runtime, QUESTION)["adapter"] == third["adapter"]
    assert doctor(town.runtime)["problems"] == []


# --- what is said of an adapter that serves --------------------------------------------------------------------------


@pytest.fixture
def named(world: World) -> World:
    """Adapter 1 learned from one document, adapter 2 from it and another."""
    for name in ("good", "bad"):
        world.write(f"{name}.txt", f"a {name} text")
    world.sync()
    ids = world.ids()
    promote(world.runtime.memory, (ids["good.txt"],))
    promote(world.runtime.memory, (ids["good.txt"], ids["bad.txt"]))
    return world


def test_it_is_named_by_what_the_document_was_last(named: World) -> None:
    memory = named.runtime.memory
    assert warning(memory, ()) is None
    assert warning(memory, ("source:other",)) is None
    (named.docs / "bad.txt").rename(named.docs / "worse.txt")
    named.sync()
    assert f"({named.docs / 'worse.txt'})" in str(warning(memory, ("path:worse.txt",)))
    (named.docs / "worse.txt").unlink()
    named.sync()
    assert "`memex rollback before-adapter-0002 --only model`" in str(warning(memory, ("path:worse.txt",)))
    memory.roll_back("before-adapter-0002", only="model")
    assert warning(memory, ("path:worse.txt",)) is None


def test_the_way_back_leads_past_all_that_learned_from_it(named: World) -> None:
    memory = named.runtime.memory
    memory.snapshot("later")
    assert "`memex rollback before-adapter-0001 --only model`" in str(warning(memory, ("path:good.txt",)))
    memory.delete_snapshot("before-adapter-0001")
    assert "no snapshot has one that did not; `memex forget`" in str(warning(memory, ("path:good.txt",)))
    (memory.adapter_folder(1) / "card.json").write_text("no card")
    (memory.adapter_folder(2) / "card.json").write_text("no card")
    assert warning(memory, ("path:good.txt",)) is None
    assert all(one["quarantined"] == [] for one in operations.refresh_list(named.runtime)["runs"])


def test_status_says_it(named: World) -> None:
    named.reopen(refresh=Refresh(quarantine=("path:bad.txt",)))
    expected = warning(named.runtime.memory, ("path:bad.txt",))
    named.close()
    service = Service(named.settings)
    try:
        found = service.status()
        assert expected is not None
        assert found["alarms"] == {"quarantine": expected}
        assert f"ALARM       {expected}" in render.status(found)
        service.runtime.memory.roll_back("before-adapter-0002", only="model")
        assert service.status()["alarms"] == {}
    finally:
        service.runtime.close()
        named.open()
