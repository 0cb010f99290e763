"""Evaluations against figures worked out by hand; the language model says what the test wants."""

from __future__ import annotations

import importlib.util
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from daemon import operations, render_evaluation
from daemon.evaluation import beir, plot, questions
from daemon.evaluation.offline import evaluate_here
from daemon.evaluation.run import evaluate
from daemon.operations import shapes
from store.errors import NotFound, UsageError
from store.types import Evaluation
from store.warm import Warm
from tests.daemon.conftest import World
from tests.daemon.models import Model
from trainers.prompt import ABSENT

FACTS = {
    "bread": "Bread bakes for 40 minutes at 220 degrees.",
    "boat": "The boat needs two new ropes and a mast.",
    "bees": "Bees sleep in winter and eat their honey.",
    "clock": "The clock in the hall strikes every hour.",
    "train": "Trains to the coast leave from platform nine.",
    "paint": "Green paint covers the fence behind the house.",
}
BREAD = "Bread bakes for how many minutes?"
BOAT = "The boat needs what new?"


@pytest.fixture
def house(world: World) -> World:
    for name, text in FACTS.items():
        world.write(f"{name}.txt", text)
    world.sync()
    return world


def serve(world: World, answer: Callable[[str], str]) -> Model:
    model = Model(answer)
    world.runtime._model = Warm(lambda: model)  # type: ignore[assignment,arg-type]
    return model


def asked(world: World, *lines: dict[str, Any]) -> str:
    path = world.docs.parent / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def run(world: World, *lines: dict[str, Any], **arguments: Any) -> tuple[Evaluation, Evaluation | None]:
    return evaluate(world.runtime, asked(world, *lines), **arguments)


def place(world: World, question: str, name: str) -> int:
    hits = world.runtime.memory.search(question, 10).hits
    return 1 + [Path(hit.path).stem for hit in hits].index(name)


def test_retrieval_by_paths_and_passages(house: World) -> None:
    done, other = run(
        house,
        {"question": BREAD, "relevant": ["bread.txt"]},
        {"question": BOAT, "relevant": ["needs  TWO new ropes"]},
        {"question": BOAT, "relevant": ["gone.txt"]},
        {"question": BOAT, "answers": ["two ropes"]},
        retrieval_only=True,
    )
    assert other is None
    assert (place(house, BREAD, "bread"), place(house, BOAT, "boat")) == (1, 1)
    assert done.metrics["retrieval"] == {
        "questions": 3,
        "precision": {
            "1": pytest.approx(2 / 3),
            "3": pytest.approx(2 / 9),
            "5": pytest.approx(2 / 15),
            "10": pytest.approx(1 / 15),
        },
        **{name: dict.fromkeys(("1", "3", "5", "10"), pytest.approx(2 / 3)) for name in ("recall", "mrr", "ndcg")},
    }
    assert "answers" not in done.metrics
    assert 0 < done.metrics["latency"]["search"]["p50"] <= done.metrics["latency"]["search"]["p95"]


def test_a_document_counts_once_however_many_of_its_chunks_are_found(world: World) -> None:
    world.write(
        "long.md", "\n\n".join(f"# Bread {n}\n\nBread bakes {n} minutes, and then {'bread ' * 60}" for n in range(30))
    )
    world.write("other.txt", "Rolls take ten minutes.")
    world.sync()
    found = world.runtime.memory.search("bread bakes minutes", 10).hits
    assert {Path(hit.path).name for hit in found} == {"long.md"}
    done, _ = run(world, {"question": "bread bakes minutes", "relevant": ["other.txt"]}, retrieval_only=True)
    assert done.metrics["retrieval"]["mrr"] == {"1": 0.0, "3": 0.5, "5": 0.5, "10": 0.5}


def test_answers_citations_and_abstention(house: World) -> None:
    said = {
        BREAD: "40 minutes [1]",
        BOAT: "two new ropes",
        "Bees sleep when?": ABSENT,
        "Who strikes the clock?": "every hour",
    }
    serve(house, lambda prompt: said[prompt.rsplit("Question: ", 1)[1]])
    done, _ = run(
        house,
        {"question": BREAD, "answers": ["90", "40 Minutes."], "relevant": ["bread.txt"]},
        {"question": BOAT, "answers": ["two ropes"], "relevant": ["bees.txt"]},
        {"question": "Bees sleep when?", "answers": ["in winter"]},
        {"question": "Who strikes the clock?", "answers": []},
        {"question": "zebra quagga", "answers": []},
    )
    f1 = (1 + 4 / 5 + 0) / 3
    assert done.metrics["answers"] == {
        "questions": 3,
        "exact": pytest.approx(1 / 3),
        "f1": pytest.approx(f1),
        "groundedness": 1.0,
        "citation_precision": 0.5,  # the boat's passage is not what the file calls relevant
        "citation_recall": 0.5,
    }
    assert done.metrics["abstention"] == {
        "answerable": 3,
        "unanswerable": 2,
        "false_refusals": pytest.approx(1 / 3),
        "right_refusals": 0.5,
    }
    assert done.metrics["tokens"] == {"prompt": 40.0, "new": pytest.approx(12 / 5)}  # nothing near: no model
    assert done.metrics["threshold"]["left_out"] is False
    assert (done.metrics["threshold"]["answerable"], done.metrics["threshold"]["unanswerable"]) == (3, 2)


def test_what_an_evaluation_asks_is_no_retrieval_and_leaves_no_text(house: World) -> None:
    serve(house, lambda prompt: "40 minutes")
    done, _ = run(house, {"question": BREAD, "answers": ["40 minutes"]})
    journal = house.runtime.memory.journal
    assert journal.retrievals_since_refresh() == 0
    assert journal.evaluation(done.evaluation) == done
    assert "bakes" not in json.dumps(shapes.evaluation(done))


def test_the_noise_curve(house: World) -> None:
    """With more distractors than two, this model takes the first passage's word."""

    def answer(prompt: str) -> str:
        passages = re.findall(r"<passage \d>\n(.*?)\n</passage", prompt, re.DOTALL)
        right = [one for one in passages if "40 minutes" in one or "two new ropes" in one]
        if len(passages) > 3:
            return passages[0]
        return ("40 minutes" if "40" in right[0] else "two new ropes") if right else ABSENT

    model = serve(house, answer)
    done, _ = run(
        house,
        {"question": BREAD, "answers": ["40 minutes"], "relevant": ["bread.txt"]},
        {"question": BOAT, "answers": ["two new ropes"]},
        {"question": "Bees sleep when?", "answers": ["on Sundays"]},  # held by no passage: not in the curve
    )
    noise = done.metrics["noise"]
    assert noise["questions"] == 2
    assert [point["share"] for point in noise["points"]] == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert [point["exact"] for point in noise["points"]] == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert noise["without"] == {"refusals": 0.0}
    curve = model.prompts[-12:]
    assert [prompt.count("</passage") for prompt in curve] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5]
    assert [prompt.index("40 minutes") < prompt.index("<passage 2>") for prompt in curve[2:10:2]] == [True] * 4
    assert [prompt.index("two new ropes") > prompt.index("<passage 2>") for prompt in curve[3:10:2]] == [True] * 4
    assert ("40 minutes" in curve[10], "two new ropes" in curve[11]) == (False, False)


def test_the_threshold_is_calibrated_with_the_right_passages_left_out(house: World) -> None:
    lines = [{"question": text, "relevant": [f"{name}.txt"]} for name, text in FACTS.items()]
    done, _ = run(house, *lines, retrieval_only=True)
    found = done.metrics["threshold"]
    assert (found["answerable"], found["unanswerable"], found["left_out"]) == (6, 6, True)
    assert found["best"]["false_refusals"] == found["best"]["false_answers"] == 0.0
    scores = [sorted(hit.similarity for hit in house.runtime.memory.search(text, 2).hits) for text in FACTS.values()]
    assert max(low for low, _ in scores) < found["best"]["value"] < min(high for _, high in scores)
    assert found["now"]["value"] == house.settings.retrieval.min_score
    text = render_evaluation.evaluation(shapes.compared(done, None))
    assert f"retrieval.min_score = {found['best']['value']:.3f} (best): 0.0% false refusals, 0.0% false answers" in text


def test_compared_with_the_last_a_run_and_a_snapshot(house: World) -> None:
    operations.snapshot_create(house.runtime, "before")
    line = {"question": BREAD, "relevant": ["bread.txt"]}
    first, other = run(house, line, retrieval_only=True)
    assert other is None
    (house.docs / "bread.txt").unlink()
    (house.docs / "old").mkdir()
    (house.docs / "boat.txt").rename(house.docs / "old" / "boat.txt")
    house.sync()
    second, other = run(house, line, retrieval_only=True)
    assert other == first
    assert second.metrics["retrieval"]["mrr"]["1"] == 0.0
    assert run(house, line, retrieval_only=True, against="1")[1] == first
    fourth, other = run(house, line, retrieval_only=True, against="before")
    assert other is not None
    assert (other.state["snapshot"], other.metrics["retrieval"]["mrr"]["1"]) == ("before", 1.0)
    assert (other.asked, other.evaluation) == (fourth.asked, 4)
    moved, other = run(house, {"question": BOAT, "relevant": ["boat.txt"]}, retrieval_only=True, against="before")
    assert other is not None
    assert moved.metrics["retrieval"]["mrr"]["1"] == other.metrics["retrieval"]["mrr"]["1"] == 1.0
    past, _ = run(house, line, retrieval_only=True, when="before")
    assert past.metrics["retrieval"]["mrr"]["1"] == 1.0
    text = render_evaluation.evaluation(operations.eval_show(house.runtime, 2, 1))
    assert "  MRR       0.000 (-1.000)" in text
    listed = operations.eval_list(house.runtime)["evaluations"]
    assert [one["evaluation"] for one in listed] == [8, 7, 6, 5, 4, 3, 2, 1]
    for wrong in ("99", "no-such-snapshot"):
        with pytest.raises(NotFound):
            run(house, line, retrieval_only=True, against=wrong)
    assert operations.eval_list(house.runtime)["evaluations"] == listed


def test_questions_made_from_the_documents(house: World) -> None:
    tools = [f"The tool{n} server listens on port {4000 + n} of this machine." for n in range(5)]
    for number, text in enumerate(tools):
        house.write(f"tool{number}.txt", text)
    house.sync()
    memory = house.runtime.memory
    made = questions.made(memory, memory.state(), 50)
    assert len(made.questions) >= 5
    for one in made.questions:
        (sentence,) = one.passages
        assert sentence in {*FACTS.values(), *tools}
        assert one.answers is not None
        assert one.answers[0] in sentence
    fewer = questions.made(memory, memory.state(), 2)
    assert len(fewer.questions) == 2
    assert questions.made(memory, memory.state(), 2).fingerprint == fewer.fingerprint


def test_judged_answers_are_questions(house: World) -> None:
    serve(house, lambda prompt: "40 minutes" if "Bread" in prompt.rsplit("Question: ", 1)[1] else "two new ropes")
    memory, ids = house.runtime.memory, {}
    for question in (BREAD, BOAT, "The boat needs which ropes?", "Boat ropes needs a mast?"):
        ids[question] = operations.ask(house.runtime, question)["retrieval_id"]
    with pytest.raises(UsageError, match="memex review"):
        questions.logged(memory, memory.state())
    judge = operations.feedback
    judge(house.runtime, ids[BREAD], "good")
    judge(house.runtime, ids[BOAT], "bad", "ropes and a mast", "wrong")
    judge(house.runtime, ids["The boat needs which ropes?"], "bad", None, "citation")
    judge(house.runtime, ids["Boat ropes needs a mast?"], "bad", ABSENT, "unsupported")
    found = {one.text: one for one in questions.logged(memory, memory.state()).questions}
    assert found[BREAD].answers == ("40 minutes",)
    assert found[BREAD].documents == {str(house.docs / "bread.txt"): 1.0}
    assert (found[BOAT].answers, found[BOAT].judges_ranking) == (("ropes and a mast",), False)
    right = found["The boat needs which ropes?"]  # only what it cites is wrong
    assert (right.answers, right.judges_ranking) == (("two new ropes",), False)
    assert found["Boat ropes needs a mast?"].answers == ()
    assert {one.query for one in memory.journal.judged(10)} == set(ids)


def test_a_bad_verdict_without_the_right_answer_teaches_nothing(house: World) -> None:
    serve(house, lambda prompt: "40 minutes")
    retrieval = operations.ask(house.runtime, BREAD)["retrieval_id"]
    operations.feedback(house.runtime, retrieval, "bad", None, "wrong")
    assert house.runtime.memory.journal.judged(10) == []
    assert house.runtime.memory.journal.retrieval(retrieval).fault == "wrong"
    for verdict, fault in (("good", "wrong"), ("bad", "ugly")):
        with pytest.raises(UsageError, match="fault"):
            operations.feedback(house.runtime, retrieval, verdict, None, fault)


def test_an_accepted_answer_that_is_called_bad_later_teaches_no_more(house: World) -> None:
    """Until someone accepts it again. Another answer's fault, or a wrong citation, says nothing of it."""
    said = ["40 minutes"]
    serve(house, lambda prompt: said[-1])

    def taught(answer: str, *verdict: str | None) -> list[str | None]:
        said.append(answer)
        retrieval = operations.ask(house.runtime, BREAD)["retrieval_id"]
        operations.feedback(house.runtime, retrieval, *verdict)
        return [questions.right_answer(one) for one in questions.right_ones(house.runtime.memory, 10)]

    baked = "40 minutes,  at 230 degrees"
    assert taught("40 minutes", "good") == ["40 minutes"]
    assert taught("an hour", "bad") == ["40 minutes"]
    assert taught("40 minutes", "bad", None, "citation") == ["40 minutes"] * 2
    assert taught("40 minutes", "bad", None, "wrong") == []
    assert taught("40 minutes", "good") == ["40 minutes"] * 3
    assert taught("40 minutes", "bad", baked) == [baked]
    said.append("40 minutes")
    memory = house.runtime.memory
    given = memory.journal.retrieval(operations.ask(house.runtime, BREAD)["retrieval_id"])
    assert given.answer == "40 minutes [1]"
    marked = replace(given, retrieval_id="marked", at=datetime.now(UTC), answer="40 minutes, at 230 degrees [1][2]")
    memory.journal.record(memory.head(), marked)
    memory.journal.feedback("marked", "bad")
    assert questions.right_ones(memory, 10) == [], "a correction too, whatever is cited"
    assert taught("an hour", "bad", baked) == [baked] * 2, "until someone says it again"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: needs a question"),
        ('{"question": " "}', "line 2: needs a question"),
        ('{"question": "a", "answer": "b"}', "line 2: 'answer' is not known"),
        ('{"question": "a", "answers": "b"}', "line 2: answers should be a list"),
        ('{"question": "a", "relevant": [1]}', "line 2: relevant should be a list"),
        ('{"question": "a", "relevant": ["b.txt"]}', "line 2: 'b.txt' names 2 documents"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(f'{{"question": "fine"}}\n{line}\n')
    with pytest.raises(UsageError, match=complaint):
        questions.from_file(path, ["/docs/a/b.txt", "/docs/c/b.txt"])


def test_files_that_are_no_questions(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, complaint in (("empty", "no question in it"), ("binary", "cannot be read"), ("gone", "cannot be read")):
        with pytest.raises(UsageError, match=complaint):
            questions.from_file(tmp_path / name, [])


def collection(folder: Path) -> Path:
    """Six documents; the first query's grades are 2 and 1, the second's only document is not in the corpus."""
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": name, "title": name.title(), "text": text} for name, text in FACTS.items()]
    corpus.append({"_id": "bread/2", "title": "", "text": "Bread bakes for 50 minutes, rolls for 20 degrees minutes."})
    queries = [{"_id": f"q{n}", "text": text} for n, text in enumerate((BREAD, "zebra", "not judged"))]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in corpus))
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    heading = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / "test.tsv").write_text(f"{heading}q0\tbread\t2\nq0\tbread/2\t1\nq0\tboat\t0\nq1\tgone\t1\n")
    (folder / "qrels" / "train.tsv").write_text(f"{heading}q2\tboat\t1\n")
    return folder


def test_a_beir_folder_is_measured_in_a_memory_that_is_gone_afterwards(
    house: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = collection(tmp_path / "tiny")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    before, stages = house.remembered(), []
    done, other = evaluate(
        house.runtime, str(folder), on_progress=lambda stage, n, total: stages.append((stage, n, total))
    )
    assert other is None
    assert (done.kind, done.name, done.questions, done.state) == ("beir", "tiny", 2, {})
    assert done.metrics["retrieval"]["recall"]["10"] == 0.5
    assert done.metrics["retrieval"]["ndcg"]["10"] > 0.3
    assert ("embedding", 7, 7) in stages
    assert (list(scratch.iterdir()), house.remembered()) == ([], before)
    assert evaluate(house.runtime, str(folder))[1] == done
    with pytest.raises(UsageError, match="no past states"):
        evaluate(house.runtime, str(folder), when="1 hour ago")
    (folder / "corpus.jsonl").write_text('{"_id": "bread", "text": "fine"}\n{"_id": "no text"}\n')
    with pytest.raises(UsageError, match="line 2: needs '_id' and 'text'"):
        evaluate(house.runtime, str(folder))
    assert list(scratch.iterdir()) == []


def test_judgements_of_a_beir_folder(tmp_path: Path) -> None:
    folder = collection(tmp_path / "tiny")
    assert [(one.text, one.documents) for one in beir.read_questions(folder).questions] == [
        (BREAD, {"bread": 2.0, "bread/2": 1.0}),
        ("zebra", {"gone": 1.0}),
    ]
    (folder / "qrels" / "test.tsv").unlink()
    assert [one.text for one in beir.read_questions(folder).questions] == ["not judged"]
    (folder / "qrels" / "train.tsv").write_text("q\td\t1\nq\td\tmuch\n")
    with pytest.raises(UsageError, match="line 2: should be query, document and grade"):
        beir.read_questions(folder)


def test_a_collection_needs_no_memory_and_no_daemon(world: World, tmp_path: Path) -> None:
    folder = collection(tmp_path / "tiny")
    settings = world.settings.model_copy(update={"state_dir": tmp_path / "fresh"})
    picture = tmp_path / "figures.png"
    done = evaluate_here(settings, str(folder), {"retrieval_only": True}, plot_to=picture, show_progress=False)
    again = evaluate_here(settings, str(folder), {"count": 1}, plot_to=picture, show_progress=False)
    assert (done["questions"], again["questions"], again["against"]["evaluation"]) == (2, 1, done["evaluation"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "other questions were asked then" in render_evaluation.evaluation(again)


def test_a_plot_that_cannot_be_drawn_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, complaint in ((tmp_path / "a.jpg", "ends with .png"), (tmp_path / "no" / "a.png", "there is no folder")):
        with pytest.raises(UsageError, match=complaint):
            plot.check(path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"memexd\[plot\]"):
        plot.check(tmp_path / "a.png")


def test_the_plot_has_the_noise_curve(house: World, tmp_path: Path) -> None:
    serve(house, lambda prompt: "40 minutes")
    line = {"question": BREAD, "answers": ["40 minutes"], "relevant": ["bread.txt"]}
    first = run(house, line, retrieval_only=True)[0]
    both = run(house, line)
    plot.draw(shapes.compared(first, None), tmp_path / "narrow.png")
    plot.draw(shapes.compared(*both), tmp_path / "wide.png")
    narrow, wide = (int.from_bytes((tmp_path / name).read_bytes()[16:20]) for name in ("narrow.png", "wide.png"))
    assert wide == 2 * narrow  # pixels
    text = render_evaluation.evaluation(shapes.compared(*both))
    assert "distractors 0%              20%             40%             60%             80%" in text
    assert "answers     exact 1.000, f1 1.000, groundedness 1.000, citation precision 1.000" in text
