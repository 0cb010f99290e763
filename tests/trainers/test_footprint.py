"""When activations are kept, and when they are computed twice."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainers import footprint, lora
from trainers.footprint import activations, is_short
from trainers.model import LanguageModel
from trainers.packing import Item, Page, page
from trainers.training import _Loss

MEGABYTE = 1 << 20


def page_of(tokens: int) -> Page:
    return page([Item(tuple(range(100, 98 + tokens)), (5, 6))])


@pytest.fixture
def default_model(smollm_path: Path) -> LanguageModel:
    return LanguageModel.load(smollm_path, device="cpu")


@pytest.mark.models
@pytest.mark.parametrize("first_layer", [0, 20])
def test_what_a_step_takes_is_known_beforehand(default_model: LanguageModel, first_layer: int) -> None:
    """Against what autograd says that it keeps of a page; the allocator takes up to twice as much."""
    import torch

    settings = lora.Settings(first_layer=first_layer)
    lora.prepare(default_model.model, settings)
    weights = {one.untyped_storage().data_ptr() for one in default_model.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _Loss(default_model.model, settings)(page_of(60))
    told = activations(576 + 1536, 30 - first_layer, 60)
    assert loss.requires_grad
    assert 0.5 * told < sum(kept.values()) < told


def test_all_that_grows_is_counted() -> None:
    """The longest page's activations, what the frozen layers gave for every page, and a part for the vocabulary."""
    small = SimpleNamespace(hidden_size=100, intermediate_size=300, num_hidden_layers=10, vocab_size=1000)

    def more(tokens: list[int], first_layer: int = 0, **other: int) -> int:
        config = SimpleNamespace(**{**vars(small), **other})
        return footprint.footprint(config, tokens, first_layer) - footprint.footprint(small, [50], first_layer)

    assert more([50, 50]) == more([50, 20]) == 0
    assert more([50, 70]) == activations(400, 10, 20)
    assert more([50, 20], first_layer=4) == 4 * 100 * 20
    assert more([70], first_layer=4) == activations(400, 6, 20) + 4 * 100 * 20
    assert more([50], vocab_size=3000) == 2000 * footprint.PER_WORD
    unsaid = SimpleNamespace(hidden_size=100, num_hidden_layers=10, vocab_size=1000)
    assert footprint.footprint(unsaid, [50], 0) - footprint.footprint(small, [50], 0) == activations(100, 10, 50)


@pytest.mark.models
def test_the_tightest_limit_counts(default_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [page_of(100), page_of(300), page_of(200)]
    needed = footprint.footprint(default_model.model.config, [100, 300, 200], 0)

    def short(*left: int) -> bool:
        monkeypatch.setattr(footprint, "_left", lambda device, cap_mb: list(left))
        return is_short(default_model.model, pages, 0, None)

    assert not short(needed)
    assert short(needed - 1)
    assert short(10 * needed, needed - 1)
    assert not short(), "nobody says how much is free"


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_cap_counts_what_the_process_has_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "_left_to_groups", lambda names: [])
    free, left = footprint._left(SimpleNamespace(type="cpu"), 100_000)
    assert free > 0
    assert 0 < left < 100_000 * MEGABYTE - 100 * MEGABYTE, "Python and torch have taken more than that"
    assert len(footprint._left(SimpleNamespace(type="cpu"), None)) == 1


def test_limits_of_the_control_groups_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel writes them, of the group and of those above it; where there are none, none count."""
    names, own = tmp_path / "names", tmp_path / "groups" / "user.slice" / "memex.service"
    monkeypatch.setattr(footprint, "_CGROUPS", tmp_path / "groups")
    assert footprint._left_to_groups(names) == []
    names.write_text("4:memory:/elsewhere\n0::/user.slice/memex.service\n")
    assert footprint._left_to_groups(names) == []
    own.mkdir(parents=True)
    for group, name, text in (
        (own, "memory.current", "1000\n"),
        (own, "memory.high", "5000\n"),
        (own, "memory.max", "max\n"),
        (own, "memory.stat", "anon 600\nfile 400\ninactive_file 300\nactive_file 50\nunevictable 7\n"),
        (own.parent, "memory.current", "1500\n"),
        (own.parent, "memory.max", "4000\n"),
    ):
        (group / name).write_text(text)
    assert footprint._left_to_groups(names) == [4350, 2500]


def test_an_accelerator_is_asked_for_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (123, 456))
    assert footprint._left(SimpleNamespace(type="cuda"), None) == [123]
