"""The packed loop is the plain one, done faster."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from store.errors import Corrupt, TrainingFailed
from tests.trainers.conftest import make_pages
from trainers import checkpoint, frozen, lora, packing, training
from trainers.model import LanguageModel
from trainers.training import train

SETTINGS = lora.Settings(max_steps=8, lr=1e-2, batch=4)


def prepared(path: Path, settings: lora.Settings = SETTINGS) -> LanguageModel:
    model = LanguageModel.load(path, device="cpu")
    lora.prepare(model.model, settings)
    return model


def weights(model: LanguageModel) -> dict[str, Any]:
    return {name: weight.detach().clone() for name, weight in lora.trainable(model.model).items()}


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)


def test_a_page_has_the_loss_and_the_gradient_of_its_items_one_by_one(tiny_path: Path) -> None:
    """Against the labels of transformers' own loss, on each item alone."""
    import torch

    model = prepared(tiny_path)
    for weight in lora.trainable(model.model).values():  # an adapter without effect would show little
        torch.nn.init.normal_(weight, std=0.1)
    (one,) = make_pages(model, count=3, per_page=3)
    assert one.shared > 20
    assert one.tokens < sum(len(item.prompt) + len(item.answer) for item in one.items)
    alone = torch.zeros(())
    for item in one.items:
        ids = torch.tensor([[*item.prompt, *item.answer]])
        labels = ids.clone()
        labels[0, : len(item.prompt)] = -100
        alone = alone + model.model(input_ids=ids, labels=labels).loss * len(item.answer)
    alone.backward()
    expected = {name: weight.grad.clone() for name, weight in lora.trainable(model.model).items()}
    model.model.zero_grad(set_to_none=True)
    given = packing.inputs(one, "cpu")
    together = packing.answers_loss(model.model, one, model.model.model(**given, use_cache=False).last_hidden_state)
    together.backward()
    assert float(together.detach()) == pytest.approx(float(alone.detach()), rel=1e-5)
    for name, weight in lora.trainable(model.model).items():
        assert torch.allclose(weight.grad, expected[name], rtol=1e-3, atol=1e-6), name


def test_a_short_run_too_begins_with_small_steps(tiny_path: Path) -> None:
    """Adam's first one moves each weight by the whole rate: at full rate it undoes what the adapter had learned."""
    assert [training.rate(step, 8, 0.1) for step in range(8)] == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert [training.rate(step, 400, 0.1) for step in (0, 39, 40, 220, 399)] == [1 / 40, 1.0, 1.0, 0.5, 1 / 360]
    assert training.rate(0, 1, 0.1) == 1.0
    model = prepared(tiny_path)
    before, moved = weights(model), []

    def watch(done: int, total: int) -> None:
        moved.append(max(float((one - before[name]).abs().max()) for name, one in weights(model).items()))

    train(model.model, make_pages(model), [], SETTINGS, watch)
    assert 0 < moved[0] <= 1.01 * SETTINGS.lr / 4 < max(moved)


def test_weights_of_items_count(tiny_path: Path) -> None:
    model = prepared(tiny_path)
    (one,) = make_pages(model, count=2, per_page=2)
    heavy = packing.page([dataclasses.replace(item, weight=2.0) for item in one.items])
    hidden = model.model.model(**packing.inputs(one, "cpu"), use_cache=False).last_hidden_state
    plain, doubled = (float(packing.answers_loss(model.model, page, hidden).detach()) for page in (one, heavy))
    assert doubled == pytest.approx(2 * plain)
    assert heavy.weight == 2 * one.weight == 2 * sum(len(item.answer) for item in one.items)


def test_the_loss_is_not_rounded_with_half_the_precision(tiny_path: Path) -> None:
    model = prepared(tiny_path)
    (page, *_) = make_pages(model)
    hidden = model.model.get_decoder()(**packing.inputs(page, model.model.device)).last_hidden_state
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert packing.answers_loss(model.model, page, hidden).dtype is torch.float32


def test_frozen_layers_run_once_and_change_nothing(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upper = dataclasses.replace(SETTINGS, first_layer=1)
    model = prepared(tiny_path, upper)
    assert all(".layers.1." in name for name in lora.trainable(model.model))
    pages = make_pages(model)
    ran: list[int] = []
    lower = frozen.lower
    monkeypatch.setattr(frozen, "lower", lambda *given: ran.append(1) or lower(*given))
    done = train(model.model, pages, [], upper)
    assert len(ran) == len(pages) < done.examples
    plain = prepared(tiny_path, upper)
    # The same with nothing kept: every layer, each time.
    monkeypatch.setattr(
        frozen, "upper", lambda decoder, first, given, hidden: decoder(**given, use_cache=False).last_hidden_state
    )
    again = train(plain.model, make_pages(plain), [], upper)
    assert again.losses == pytest.approx(done.losses, rel=1e-5)
    layer = model.model.model.layers[0]
    assert "forward" not in vars(layer), "the layers are as they were"


def test_saving_memory_gives_the_same_weights(tiny_path: Path) -> None:
    import torch

    sparing = dataclasses.replace(SETTINGS, save_memory=True)
    plain, saving = prepared(tiny_path), prepared(tiny_path, sparing)
    assert saving.model.model.layers[0].gradient_checkpointing
    one = train(plain.model, make_pages(plain), [], SETTINGS)
    other = train(saving.model, make_pages(saving), [], sparing)
    assert other.losses == pytest.approx(one.losses, rel=1e-5)
    lora.finish(saving.model, sparing)
    assert not saving.model.model.layers[0].gradient_checkpointing
    assert not saving.model.training
    ours, theirs = weights(plain), weights(saving)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in ours)


def test_training_lowers_the_loss_and_leaves_the_base_alone(tiny_path: Path) -> None:
    model = LanguageModel.load(tiny_path, device="cpu")
    before = model.nll(["the port of the server"])
    settings = dataclasses.replace(SETTINGS, max_steps=15)
    lora.prepare(model.model, settings)
    seen: list[tuple[int, int]] = []
    done = train(model.model, make_pages(model), [], settings, lambda *at: seen.append(at))
    assert done.losses[-1] < done.losses[0] - 0.3
    assert seen == [(step, 15) for step in range(1, 16)]
    assert done.tokens > 0
    assert done.examples == 15 * 4
    assert model.nll(["the port of the server"]) != before
    model.use_adapter(None)
    assert model.nll(["the port of the server"]) == before


def test_the_best_weights_on_what_is_kept_back_are_kept(tiny_path: Path) -> None:
    """The same question has another answer on the page kept back, which was learned before and is unlearned now."""
    settings = dataclasses.replace(SETTINGS, max_steps=60, lr=5e-2, batch=1)
    model = prepared(tiny_path, settings)
    (one,) = make_pages(model, count=1, per_page=1)
    learned = packing.page([dataclasses.replace(one.items[0], answer=tuple(model.encode_answer("red red red")))])
    kept_back = [packing.page([dataclasses.replace(one.items[0], answer=tuple(model.encode_answer("blue green")))])]
    lora.prepare(model.model, settings)
    train(model.model, kept_back, [], dataclasses.replace(settings, max_steps=150))
    for weight in lora.trainable(model.model).values():
        weight.requires_grad_(True)
    done = train(model.model, [learned], kept_back, settings)
    losses = [loss for _, loss in done.checks]
    assert len(done.losses) < 60, "it stopped early"
    assert done.best == done.checks[losses.index(min(losses))][0] < len(done.losses)
    loss = float(training._Loss(model.model, settings)(kept_back[0])) / packing.total_weight(kept_back)
    assert loss == pytest.approx(min(losses), rel=1e-4)


def test_a_kill_costs_nothing(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepared(tiny_path)
    pages = make_pages(whole)
    expected = train(whole.model, pages[1:], pages[:1], SETTINGS)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    for killed_at in (1, 4, 7):
        file = tmp_path / f"{killed_at}.safetensors"
        model = prepared(tiny_path)

        def kill(done: int, total: int, at: int = killed_at) -> None:
            if done == at + 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(model.model, pages[1:], pages[:1], SETTINGS, kill, file)
        again = prepared(tiny_path)
        done = train(again.model, pages[1:], pages[:1], SETTINGS, resume=file)
        assert done.losses == expected.losses
        assert done.checks == expected.checks
        assert equal(weights(again), weights(whole))
        ended = train(prepared(tiny_path).model, pages[1:], pages[:1], SETTINGS, resume=file)
        assert ended == done, "a run that is done is not trained on"


def test_a_checkpoint_of_other_settings_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    model = prepared(tiny_path)
    train(model.model, make_pages(model), [], SETTINGS, resume=tmp_path / "c.safetensors")
    other = prepared(tiny_path, dataclasses.replace(SETTINGS, targets=("q_proj",)))
    with pytest.raises(Corrupt, match="other settings"):
        train(other.model, make_pages(other), [], SETTINGS, resume=tmp_path / "c.safetensors")
    assert checkpoint.read(None, {}, None).step == 0


def test_the_budget_ends_training(tiny_path: Path) -> None:
    short = dataclasses.replace(SETTINGS, max_steps=100_000, minutes=1 / 60)
    model = prepared(tiny_path, short)
    assert 0 < len(train(model.model, make_pages(model), [], short).losses) < 10_000
    with pytest.raises(TrainingFailed, match="minutes"):
        train(prepared(tiny_path).model, make_pages(model), [], dataclasses.replace(SETTINGS, minutes=0))
    with pytest.raises(TrainingFailed, match="no training examples"):
        train(model.model, [], [], SETTINGS)


def test_the_time_that_was_spent_before_a_kill_counts(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one step more is taken, at a rate as if all were still to come."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    model, file = prepared(tiny_path), tmp_path / "c.safetensors"

    def kill(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model.model, make_pages(model), [], SETTINGS, kill, file)
    over = dataclasses.replace(SETTINGS, minutes=1e-6)
    assert len(train(prepared(tiny_path).model, make_pages(model), [], over, resume=file).losses) == 3


def test_an_adapter_goes_on_from_another(tiny_path: Path, tmp_path: Path) -> None:
    model = prepared(tiny_path)
    train(model.model, make_pages(model), [], SETTINGS)
    lora.save(model.model, tmp_path / "a", SETTINGS)
    lora.write_card(tmp_path / "a", SETTINGS, {"base": {"name": "tiny", "sha256": model.fingerprint}})
    warm = LanguageModel.load(tiny_path, device="cpu")
    lora.prepare(warm.model, SETTINGS, tmp_path / "a", warm.fingerprint)
    assert equal(weights(warm), weights(model))
    done = train(warm.model, make_pages(warm), [], SETTINGS)
    assert done.losses[0] < train(prepared(tiny_path).model, make_pages(warm), [], SETTINGS).losses[0]
    other = LanguageModel.load(tiny_path, device="cpu")
    with pytest.raises(Corrupt, match="another base model"):
        lora.prepare(other.model, SETTINGS, tmp_path / "a", "another")
    other = LanguageModel.load(tiny_path, device="cpu")
    assert lora.has_shape(tmp_path / "a", SETTINGS)
    for change in ({"rank": SETTINGS.rank + 1}, {"targets": ("q_proj",)}, {"first_layer": 1}):
        assert not lora.has_shape(tmp_path / "a", dataclasses.replace(SETTINGS, **change))
    with pytest.raises(Corrupt, match="warm_start"):
        lora.prepare(other.model, dataclasses.replace(SETTINGS, first_layer=1), tmp_path / "a", other.fingerprint)
