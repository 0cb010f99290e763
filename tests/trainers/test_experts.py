"""Experts: when they are trained, which of them answer, what they are worth, and that they change nothing else."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from store.errors import Corrupt
from store.types import Example
from tests.trainers.conftest import make_example, make_pages
from trainers import cycle, evaluate, experts, lora, prompt
from trainers.answers import Answers
from trainers.experts import ALONE, choose, home, plan
from trainers.model import LanguageModel

SETTINGS = lora.Settings(max_steps=64, lr=1e-2, batch=8)
SAYS = {"it": "red", "law": "blue"}  # what is right for the same question, by the domain of the passages


def of(domain: str, number: int, split: str = "train", says: dict[str, str] = SAYS) -> Example:
    """An example whose passages are of a domain; only that tells what its answer is. Some are kept back."""
    one = make_example(number, split)
    shown = tuple(
        dataclasses.replace(passage, text="the server keeps memory", domain=domain) for passage in one.passages
    )
    answer = says.get(domain, "green")
    return dataclasses.replace(one, passages=shown, target=answer, answers=(answer,))


def items(says: dict[str, str] = SAYS, train: int = 112, fresh: int = 48) -> list[Example]:
    made = [of(("it", "law")[number % 2], number, says=says) for number in range(train)]
    return made + [of(("it", "law")[number % 2], 1000 + number, "fresh", says) for number in range(fresh)]


def learn(path: Path, folder: Path, given: list[Example], **job: Any) -> dict[str, Any]:
    fields = {"base": str(path), "training": SETTINGS, "max_new_tokens": 4, "device": "cpu", "threads": 1}
    cycle.write_job(folder, cycle.Job(**{**fields, **job}), given)
    cycle.run(folder)
    found: dict[str, Any] = json.loads((folder / cycle.EVIDENCE).read_text())
    return found


@pytest.fixture(scope="module")
def contradicting(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The adapter and the evidence of a run in which the two domains contradict each other."""
    folder = tmp_path_factory.mktemp("contradicting") / "run"
    evidence = learn(tiny_path, folder, items())
    return folder / cycle.ADAPTER, evidence


def logits(model: Any, ids: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize(
    ("domains", "chosen"),
    [
        (["it", "it"], {"it": 1.0}),
        (["it", "law", "it", "it"], {"it": 0.75, "law": 0.25}),
        (["it", "art", "", "it"], {"": 0.5, "it": 0.5}),
        (["art", ""], {"": 1.0}),
        ([], {"": 1.0}),
    ],
)
def test_the_passages_choose(domains: list[str], chosen: dict[str, float]) -> None:
    assert choose(domains, {"it", "law"}) == chosen
    assert list(choose(domains[::-1], ["law", "it"]).items()) == list(chosen.items()), "whatever their order"
    assert choose(domains, ()) == ALONE


def test_an_expert_needs_a_domain_of_its_own_with_enough_examples() -> None:
    def pages(**counts: int) -> list[list[Example]]:
        return [[of(domain.strip("_"), number)] for domain, count in counts.items() for number in range(count)]

    enough = experts.ENOUGH
    assert plan(pages(it=enough, law=enough + 1)) == {"law": enough + 1, "it": enough}
    assert plan(pages(it=enough, law=enough - 1)) == {"it": enough}
    assert plan(pages(it=enough, _=1)) == {"it": enough}
    assert plan(pages(it=2 * enough)) == {}, "the shared adapter is its expert"
    assert plan(pages(it=enough - 1, law=enough - 1, _=enough)) == {}
    many = plan(pages(**{f"d{number}": enough + number for number in range(experts.MOST + 2)}))
    assert list(many) == [f"d{number}" for number in range(experts.MOST + 1, 1, -1)]


def test_a_page_teaches_the_domain_of_most_of_its_passages() -> None:
    one = of("it", 1)
    mixed = dataclasses.replace(one, passages=(*one.passages, of("law", 2).passages[0]))
    even = dataclasses.replace(one, passages=(one.passages[0], of("law", 2).passages[0]))
    assert [home([page]) for page in (one, mixed, even)] == ["it", "it", ""]


def test_folders_are_plain_and_each_domains_own() -> None:
    names = [lora.expert_folder(domain) for domain in ("IT", "it", "../..", "a/b", "a b", "\u6cd5", "x" * 300)]
    assert len(set(names)) == len(names)
    assert all(Path(name).name == name and len(name) < 50 and name[0].isalnum() for name in names)


def test_domains_that_contradict_each_other_get_experts(contradicting: tuple[Path, dict[str, Any]]) -> None:
    adapter, evidence = contradicting
    assert evidence["experts"]["decision"] == "promote"
    assert set(evidence["experts"]["domains"]) == {"it", "law"}
    assert "-> 1.000" in evidence["experts"]["reason"]
    assert {one["candidate_text"] for one in evidence["items"]} == {"", "red", "blue"}
    card = lora.read_card(adapter)
    assert card["sha256"] == evidence["adapter_sha256"]
    assert {domain: one["examples"] for domain, one in card["experts"].items()} == evidence["experts"]["domains"]
    assert {path.name for path in (adapter / lora.EXPERTS).iterdir()} == {
        one["folder"] for one in card["experts"].values()
    }


def test_what_serves_answers_by_domain(tiny_path: Path, contradicting: tuple[Path, dict[str, Any]]) -> None:
    adapter, _ = contradicting
    model = LanguageModel.load(tiny_path, device="cpu")

    def say(domain: str) -> str:
        asked = of(domain, 5000)
        shares = choose([passage.domain for passage in asked.passages], lora.experts(adapter))
        model.use_adapter(adapter, shares)
        return model.generate(prompt.messages(asked.question, asked.passages), 4).text

    assert [say(domain) for domain in ("it", "law", "it")] == ["red", "blue", "red"]
    shared = say("art")
    model.use_adapter(adapter)
    assert model.generate(prompt.messages("what is the server", of("art", 5000).passages), 4).text == shared


def test_shares_are_exactly_the_weighted_sum_of_the_changes(
    tiny_path: Path, contradicting: tuple[Path, dict[str, Any]]
) -> None:
    """As plain peft combines them ("cat") from the same files, and as the sum on the base's weights."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    adapter, _ = contradicting
    shares = {"": 0.5, "it": 0.125, "law": 0.375}
    ours = LanguageModel.load(tiny_path, device="cpu")
    ids = torch.tensor([ours.encode([{"role": "user", "content": "the port of the server"}])])
    each = {}
    for domain in shares:
        ours.use_adapter(adapter, {domain: 1.0})
        each[domain] = logits(ours.model, ids)
    ours.use_adapter(adapter, shares)
    blended = logits(ours.model, ids)

    folders = {domain: adapter / lora.EXPERTS / one["folder"] for domain, one in card_of(adapter).items()}
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_path), str(adapter), "shared")
    for domain, folder in folders.items():
        theirs.load_adapter(str(folder), domain)
    theirs.add_weighted_adapter(["shared", "it", "law"], list(shares.values()), "blend", "cat")
    theirs.set_adapter("blend")
    assert torch.allclose(blended, logits(theirs, ids), atol=1e-5)

    plain = AutoModelForCausalLM.from_pretrained(tiny_path)
    for domain, folder in {"": adapter, **folders}.items():
        state = lora._load(folder)
        for name in [name for name in state if name.endswith("lora_A.weight")]:
            change = state[name.replace("lora_A", "lora_B")] @ state[name]
            with torch.no_grad():
                plain.get_parameter(name.replace("lora_A.", "")).add_(change, alpha=2 * shares[domain])  # alpha / rank
    assert torch.allclose(blended, logits(plain, ids), atol=1e-5)

    assert not torch.allclose(blended, each["it"], atol=1e-2)
    for domain, alone in each.items():
        ours.use_adapter(adapter, {domain: 1.0})
        assert torch.equal(logits(ours.model, ids), alone), "a blend leaves nothing behind"


def card_of(adapter: Path) -> dict[str, Any]:
    found: dict[str, Any] = lora.read_card(adapter)["experts"]
    return found


def test_experts_are_let_go_with_their_adapter(
    tiny_path: Path, contradicting: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    import torch

    adapter, _ = contradicting
    model = LanguageModel.load(tiny_path, device="cpu")
    ids = torch.tensor([model.encode([{"role": "user", "content": "the port"}])])
    model.use_adapter(adapter, {"it": 1.0})
    expected = logits(model.model, ids)
    attached = model.model.model.layers[0].self_attn.q_proj.lora_A
    assert len(attached) == 3
    for seed in range(4):
        other = LanguageModel.load(tiny_path, device="cpu")
        lora.prepare(other.model, dataclasses.replace(SETTINGS, seed=seed))
        lora.save(other.model, tmp_path / str(seed), SETTINGS)
        lora.write_card(tmp_path / str(seed), SETTINGS, {"base": {"name": "tiny", "sha256": other.fingerprint}})
        model.use_adapter(tmp_path / str(seed))
        assert not torch.equal(logits(model.model, ids), expected)
    assert len(attached) == 4
    model.use_adapter(adapter, {"it": 1.0})
    assert torch.equal(logits(model.model, ids), expected)


def test_an_expert_that_is_not_what_the_card_says_is_refused(
    contradicting: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(contradicting[0], copy)
    lora.verify(copy)
    folder = copy / lora.EXPERTS / card_of(copy)["law"]["folder"]
    changed = bytearray((folder / lora.WEIGHTS).read_bytes())
    changed[-1] ^= 1
    (folder / lora.WEIGHTS).write_bytes(changed)
    with pytest.raises(Corrupt, match=rf"{folder.name}.*sha256"):
        lora.verify(copy)
    shutil.rmtree(folder)
    with pytest.raises(Corrupt, match=f"{folder.name} has no"):
        lora.verify(copy)


def test_experts_that_are_not_better_are_dropped(tiny_path: Path, tmp_path: Path) -> None:
    evidence = learn(tiny_path, tmp_path / "run", items({"it": "red", "law": "red"}))
    adapter = tmp_path / "run" / cycle.ADAPTER
    assert evidence["experts"]["decision"] != "promote"
    assert "no better" in evidence["experts"]["reason"]
    assert set(evidence["experts"]["domains"]) == {"it", "law"}
    assert evidence["decision"]["outcome"] == "promote", "the shared adapter needs none"
    assert lora.experts(adapter) == []
    assert {path.name for path in adapter.iterdir()} == {lora.WEIGHTS, lora.CONFIG, lora.CARD}


def test_with_one_domain_nothing_changes(tiny_path: Path, tmp_path: Path) -> None:
    given = items({"it": "red", "law": "red"}, train=experts.ENOUGH + 12, fresh=8)
    short = dataclasses.replace(SETTINGS, max_steps=8)
    runs = []
    for number, domain in enumerate(("", "it")):
        alike = [
            dataclasses.replace(
                one, passages=tuple(dataclasses.replace(passage, domain=domain) for passage in one.passages)
            )
            for one in given
        ]
        runs.append(learn(tiny_path, tmp_path / str(number) / "run", alike, training=short))
    assert [one["experts"] for one in runs] == [None, None]
    assert runs[0]["adapter_sha256"] == runs[1]["adapter_sha256"]
    adapters = [tmp_path / str(number) / "run" / cycle.ADAPTER for number in range(2)]
    for name in (lora.WEIGHTS, lora.CONFIG):
        assert len({(adapter / name).read_bytes() for adapter in adapters}) == 1
    assert not (adapters[1] / lora.EXPERTS).exists()
    assert experts.rest(short, {}) is short, "all of the time is the shared adapter's"
    assert experts.rest(short, {"it": 50}).minutes == pytest.approx(short.minutes * 2 / 3)


@pytest.mark.slow
def test_a_kill_in_the_middle_of_an_expert_changes_nothing(
    tiny_path: Path,
    contradicting: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(Exception):
        pass

    seen: list[tuple[str, int]] = []
    tell = cycle._tell

    def killing(path: Path, started: float, stage: str, done: int, total: int) -> None:
        seen.append((stage, done))
        tell(path, started, stage, done, total)
        if (stage, done) == ("train it", 5):  # the second: law has one example more
            raise Killed

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(cycle, "_tell", killing)
        patched.setattr("trainers.training.CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(Killed):
            learn(tiny_path, run, items())
    assert not (run / cycle.ADAPTER / lora.CARD).exists(), "it is garbage until it is whole"
    assert len(list(run.glob(cycle.CHECKPOINTS))) == 3
    seen.clear()
    monkeypatch.setattr(cycle, "_tell", lambda path, started, *state: seen.append(state[:2]))
    evidence = learn(tiny_path, run, items())
    trained = [one for one in seen if one[0].startswith("train")]
    assert trained[0] == ("train it", 5), "what was done is not done again"
    assert evidence["adapter_sha256"] == contradicting[1]["adapter_sha256"]
    assert card_of(run / cycle.ADAPTER) == card_of(contradicting[0])


def test_an_incumbent_answers_with_its_experts(
    tiny_path: Path, contradicting: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Against itself: the candidate goes on from the same checkpoints, so no answer differs."""
    adapter, first = contradicting
    (tmp_path / "run").mkdir()
    for checkpoint in adapter.parent.glob(cycle.CHECKPOINTS):
        shutil.copy(checkpoint, tmp_path / "run")
    evidence = learn(tiny_path, tmp_path / "run", items(), incumbent=str(adapter))
    assert evidence["experts"]["decision"] == "promote"
    assert evidence["summary"]["incumbent"]["fresh"] == first["summary"]["candidate"]["fresh"] == 1.0
    assert evidence["decision"]["outcome"] == "reject"


def test_no_answer_is_asked_twice_and_none_is_taken_for_anothers(tiny_path: Path, tmp_path: Path) -> None:
    model = LanguageModel.load(tiny_path, device="cpu")
    lora.prepare(model.model, SETTINGS)
    lora.fork(model.model, SETTINGS, "expert-1")
    shared = {"": lora.Attached(lora.CANDIDATE, "shared")}
    mixture = {**shared, "it": lora.Attached("expert-1", "its")}
    art, it = of("art", 1, "fresh"), of("it", 2, "fresh")
    mixed = dataclasses.replace(of("it", 3, "fresh"), passages=(it.passages[0], art.passages[0]))
    asked: list[int] = []
    generate = model.generate_pages

    def counted(pages: Any, most: int) -> list[str]:
        asked.append(sum(map(len, pages)))
        return generate(pages, most)

    model.generate_pages = counted  # type: ignore[method-assign]
    kept = Answers(tmp_path / "answers.jsonl")
    evaluate.serve(model, shared, [art, it, mixed], kept, 4)
    assert asked == [3]
    scores = evaluate.serve(model, mixture, [mixed, art, it], kept, 4)
    assert asked == [3, 1, 1], "what the experts leave to the shared adapter it has answered"
    assert [one.example_id for one in scores] == [mixed.example_id, art.example_id, it.example_id]
    evaluate.serve(model, mixture, [art, it, mixed], kept, 4)
    assert asked == [3, 1, 1]
    kept.keep("its", {it.example_id: "red"})
    (one,) = evaluate.serve(model, mixture, [it], kept, 4)
    assert one.text == "red"
    assert evaluate.serve(model, shared, [it], kept, 4)[0].text == kept.get("shared", it.example_id)


def test_experts_divide_their_share_of_the_time_by_their_examples(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LanguageModel.load(tiny_path, device="cpu")
    lora.prepare(model.model, SETTINGS)
    pages = make_pages(model, count=12, per_page=1)
    by_domain = {"it": pages[:6], "law": pages[6:9], "art": pages[9:]}
    given: dict[str, Any] = {}

    def fake(_model: Any, pages: Any, _kept_back: Any, settings: lora.Settings, **how: Any) -> None:
        given[how["resume"].name] = (len(pages), settings.max_steps, settings.minutes)

    monkeypatch.setattr(experts, "train", fake)
    settings = dataclasses.replace(SETTINGS, max_steps=24, minutes=9.0)
    planned = {"it": 6, "law": 3}
    made = experts.train_experts(
        *(model.model, planned, by_domain, {}, settings, tmp_path, tmp_path / cycle.CHECKPOINT, ()), lambda *_: None
    )
    assert given == {
        f"checkpoint-{made['it'].folder}.safetensors": (6, 12, pytest.approx(2.0)),
        f"checkpoint-{made['law'].folder}.safetensors": (3, 6, pytest.approx(1.0)),
    }
    assert experts.rest(settings, planned).minutes == pytest.approx(6.0)


def test_merged_are_the_shared_weights(
    tiny_path: Path, contradicting: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    adapter, _ = contradicting
    LanguageModel.load(tiny_path, device="cpu").save_merged(adapter, tmp_path / "merged")
    model = LanguageModel.load(tiny_path, device="cpu")
    ids = torch.tensor([model.encode([{"role": "user", "content": "the port"}])])
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), ids)
    model.use_adapter(adapter)
    assert torch.allclose(merged, logits(model.model, ids), atol=1e-4)
    model.use_adapter(adapter, {"it": 1.0})
    assert not torch.allclose(merged, logits(model.model, ids), atol=1e-2)
