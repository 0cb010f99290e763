import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from store.errors import TrainingFailed
from tests.daemon.conftest import in_this_process
from tests.trainers.conftest import make_example
from trainers import cycle, evaluate, gate, lora
from trainers.child import run_child
from trainers.cycle import Job
from trainers.examples import is_kept_back
from trainers.model import LanguageModel

ITEMS = (
    [make_example(n) for n in range(6)]
    + [make_example(n, "fresh") for n in range(10, 16)]
    + [make_example(n, "abstain", gold=False) for n in range(20, 23)]
)


def job(tiny_path: Path, **changes: Any) -> Job:
    fields = {"base": str(tiny_path), "training": lora.Settings(max_steps=3), "max_new_tokens": 4, "device": "cpu"}
    return Job(**{**fields, **changes})


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def children() -> set[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return {int(pid) for pid in found.stdout.split() if alive(int(pid))}


def test_evaluation_has_what_is_left_of_the_minutes(tiny_path: Path, tmp_path: Path) -> None:
    asked = [make_example(number, "fresh") for number in range(10, 50)]
    cycle.write_job(tmp_path / "run", job(tiny_path, minutes=0.0), [*ITEMS[:6], *asked])
    evidence = run_child(tmp_path / "run", nice=0)
    assert "only 16 of 40 items fit into the time" in evidence["decision"]["reason"]
    assert [item["set"] for item in evidence["items"]].count("fresh") == 16
    assert evidence["seconds_per_answer"] > 0


def test_a_run_leaves_an_adapter_and_evidence_item_by_item(tiny_path: Path, tmp_path: Path) -> None:
    # The passage may be left out, but a blank's question repeats its sentence.
    absent = replace(make_example(6, gold=False), document_id="asked about")
    cycle.write_job(tmp_path, job(tiny_path), [*ITEMS, absent])
    assert cycle.read_job(tmp_path) == job(tiny_path)
    states: list[Mapping[str, Any]] = []
    evidence = run_child(tmp_path, nice=3, memory_mb=8000, on_progress=states.append)
    sets = [item["set"] for item in evidence["items"]]
    assert (sets.count("fresh"), sets.count("abstain"), sets.count("general")) == (6, 3, 6)
    assert evidence["steps"] == len(evidence["losses"]) == 3
    assert evidence["incumbent"] is None
    assert states[-1]["stage"] == "done"
    assert {"load", "train"} & {state["stage"] for state in states}
    card = lora.read_card(tmp_path / cycle.ADAPTER)
    assert card["sha256"] == evidence["adapter_sha256"]
    taught = [item for item in (*ITEMS[:6], absent) if not is_kept_back(item)]
    assert card["examples"] == [item.example_id for item in taught]
    assert "asked about" in card["documents"]
    pairs = [gate.Pair(**{key: item[key] for key in gate.Pair.__slots__}) for item in evidence["items"]]
    assert gate.decide(pairs).outcome == "inconclusive"
    LanguageModel.load(tiny_path).use_adapter(tmp_path / cycle.ADAPTER)

    # The next run, against this one's adapter, with the same training: equal scores, which never promote. General text
    # is held against the bare model: what each cycle may lose of it would add up.
    again = tmp_path / "again"
    cycle.write_job(again, job(tiny_path, incumbent=str(tmp_path / cycle.ADAPTER)), [*ITEMS, absent])
    repeated = run_child(again, nice=0)
    assert repeated["adapter_sha256"] == evidence["adapter_sha256"]
    general = [item for item in repeated["items"] if item["set"] == "general"]
    asked = [item for item in repeated["items"] if item["set"] != "general"]
    bare = [one.value for one in evaluate.general(LanguageModel.load(tiny_path, device="cpu"))]
    assert [one["incumbent"] for one in general] == pytest.approx(bare, abs=1e-5)
    assert asked
    assert all(item["candidate"] == item["incumbent"] for item in asked)


def test_what_is_kept_back_is_looked_at_and_not_trained_on(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(model: Any, pages: Any, kept_back: Any, *given: Any, **how: Any) -> Any:
        trained.append([sum(len(page.items) for page in some) for some in (pages, kept_back)])
        return train(model, pages, kept_back, *given, **how)

    trained: list[list[int]] = []
    train = cycle.train
    monkeypatch.setattr(cycle, "train", seen)
    given = [*(make_example(number) for number in range(48)), *ITEMS[6:]]
    kept_back = {one.example_id for one in given[:48] if is_kept_back(one)}
    assert len(kept_back) > 1
    cycle.write_job(tmp_path, job(tiny_path), given)
    evidence = in_this_process(tmp_path)
    assert evidence["checks"]
    assert trained == [[48 - len(kept_back), len(kept_back)]]
    assert (evidence["trained_on"], evidence["kept_back"]) == (48 - len(kept_back), len(kept_back))
    card = lora.read_card(tmp_path / cycle.ADAPTER)
    assert set(card["examples"]) == {one.example_id for one in given[:48]} - kept_back
    assert {one.document_id for one in given[:48]} <= set(card["documents"]), "it chose the weights"


def test_a_question_is_kept_back_for_ever_and_never_one_that_users_answered() -> None:
    some = [make_example(number) for number in range(240)]
    kept_back = {one.question for one in some if is_kept_back(one)}
    assert 10 <= len(kept_back) <= 32
    later = [replace(one, example_id=f"later{one.example_id}", episode=2, document_id="another") for one in some]
    assert {one.question for one in later if is_kept_back(one)} == kept_back
    assert not any(is_kept_back(replace(one, kind=kind)) for one in some for kind in ("feedback", "given"))


def test_a_failing_child_tells_the_end_of_its_log(tmp_path: Path) -> None:
    cycle.write_job(tmp_path, Job(base=str(tmp_path / "nowhere")), ITEMS)
    with pytest.raises(TrainingFailed, match=r"(?s)exit code 1.*MissingModel"):
        run_child(tmp_path)
    assert not (tmp_path / cycle.EVIDENCE).exists()


def test_stop_and_timeout_end_the_child(tiny_path: Path, tmp_path: Path) -> None:
    endless = job(tiny_path, training=lora.Settings(max_steps=10**9, minutes=60))
    cycle.write_job(tmp_path, endless, ITEMS)
    before = children()
    stop = threading.Event()

    def on_progress(state: Mapping[str, Any]) -> None:
        if state["stage"] == "train" and state["done"] > 0:
            stop.set()

    with pytest.raises(TrainingFailed, match="stopped"):
        run_child(tmp_path, on_progress=on_progress, stop=stop)
    with pytest.raises(TrainingFailed, match="not done after 1 s"):
        run_child(tmp_path, timeout=1)
    assert children() == before
    assert not (tmp_path / cycle.ADAPTER).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_the_child_dies_with_its_parent(tiny_path: Path, tmp_path: Path) -> None:
    endless = job(tiny_path, training=lora.Settings(max_steps=10**9, minutes=60))
    cycle.write_job(tmp_path, endless, ITEMS)
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from trainers.child import run_child
        run_child(Path(sys.argv[1]))
        """
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) as parent:
        deadline = time.monotonic() + 60
        while not (tmp_path / cycle.PROGRESS).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent.pid)], capture_output=True, text=True)
        priorities = {int(pid): os.getpriority(os.PRIO_PROCESS, int(pid)) for pid in found.stdout.split()}
        os.kill(parent.pid, signal.SIGKILL)
    ((child, priority),) = priorities.items()
    assert priority == 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(child)
