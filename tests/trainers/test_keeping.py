"""On plain text the model stays what it was, while it learns."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainers.conftest import make_pages
from trainers import evaluate, keeping, lora
from trainers.keeping import Kept
from trainers.model import LanguageModel
from trainers.training import Training, train

SETTINGS = lora.Settings(max_steps=24, lr=1e-2, keep=20.0)


def learned(path: Path, kept: bool) -> tuple[LanguageModel, list[Kept], Training]:
    model = LanguageModel.load(path, device="cpu")
    before = keeping.remember(model.model, model.tokenizer)
    lora.prepare(model.model, SETTINGS)
    return model, before, train(model.model, make_pages(model), [], SETTINGS, kept=before if kept else ())


def drifted(model: LanguageModel, before: list[Kept]) -> float:
    import torch

    with torch.no_grad():
        return sum(float(keeping.drift(model.model, one).detach()) for one in before) / len(before)


def test_what_is_kept_drifts_less_and_the_task_is_learned_all_the_same(tiny_path: Path) -> None:
    free, before, alone = learned(tiny_path, kept=False)
    held, _, together = learned(tiny_path, kept=True)
    assert drifted(held, before) < drifted(free, before) / 4
    assert together.losses[0] == alone.losses[0], "before the first step nothing has drifted"
    assert together.losses[-1] == pytest.approx(alone.losses[-1], abs=0.05)
    assert alone.losses[-1] < alone.losses[0] - 0.5


@pytest.mark.parametrize("first", [0, 1])
def test_drift_is_the_divergence_from_the_base_model(tiny_path: Path, first: int) -> None:
    """Also where the lower layers, which have no adapter, are not run again."""
    import torch

    model = LanguageModel.load(tiny_path, device="cpu")
    one = keeping.remember(model.model, model.tokenizer, first)[3]
    assert float(keeping.drift(model.model, one).detach()) == pytest.approx(0, abs=1e-6)
    before = model.model(one.ids).logits[0].detach().log_softmax(-1)
    lora.prepare(model.model, replace(SETTINGS, first_layer=first))
    for weight in lora.trainable(model.model).values():
        torch.nn.init.normal_(weight, std=0.5)
    now = model.model(one.ids).logits[0].detach().log_softmax(-1)
    expected = float((before.exp() * (before - now)).sum(-1).mean())
    assert expected > 0.01
    assert float(keeping.drift(model.model, one).detach()) == pytest.approx(expected, rel=1e-4)


def test_what_is_kept_is_no_text_that_an_evaluation_reads() -> None:
    sentences = {part for text in evaluate.GENERAL for part in text.split(". ")}
    assert not [part for text in keeping.TEXTS for part in text.split(". ") if part in sentences]
