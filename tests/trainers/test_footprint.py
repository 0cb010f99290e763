"""When activations are kept, and when they are computed twice."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.bench.bench_learning import MODELS
from trainers import footprint, lora
from trainers.footprint import BESIDE, activations, is_short
from trainers.model import LanguageModel, resolve
from trainers.packing import Item, Page, page
from trainers.training import _Loss

MEGABYTE = 1 << 20


def page_of(tokens: int) -> Page:
    return page([Item(tuple(range(100, 98 + tokens)), (5, 6))])


@pytest.fixture(scope="module")
def default_model() -> LanguageModel:
    return LanguageModel.load(resolve("default", MODELS), device="cpu")


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
    told = activations(default_model.model.config, 60, first_layer)
    assert loss.requires_grad
    assert 0.5 * told < sum(kept.values()) < told


def test_the_tightest_limit_counts(default_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [page_of(100), page_of(300), page_of(200)]
    needed = activations(default_model.model.config, 300, 0) + BESIDE

    def short(*left: int) -> bool:
        monkeypatch.setattr(footprint, "_left", lambda device, cap_mb: list(left))
        return is_short(default_model.model, pages, 0, None)

    assert not short(needed)
    assert short(needed - 1)
    assert short(10 * needed, needed - 1)
    assert not short(), "nobody says how much is free"


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the limit is Linux's")
def test_a_cap_counts_what_the_process_has_taken(default_model: LanguageModel) -> None:
    pages, model = [page_of(300)], default_model.model
    taken = footprint._kilobytes(Path("/proc/self/status"), "VmData:") << 10
    needed = activations(model.config, 300, 0) + BESIDE
    assert is_short(model, pages, 0, (taken + needed - 100 * MEGABYTE) // MEGABYTE)
    assert not is_short(model, pages, 0, (taken + needed + 200 * MEGABYTE) // MEGABYTE)


def test_limits_of_the_control_group_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`memory.high` and `memory.max` as the kernel writes them; where there are none, none count."""
    own = tmp_path / Path("/proc/self/cgroup").read_text().splitlines()[-1].partition("::/")[2]
    own.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(footprint, "_CGROUP", tmp_path)
    assert footprint._left_to_group() == []
    for name, value in (("memory.current", "1000\n"), ("memory.high", "5000\n"), ("memory.max", "max\n")):
        (own / name).write_text(value)
    assert footprint._left_to_group() == [4000]


def test_an_accelerator_is_asked_for_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (123, 456))
    assert footprint._left(SimpleNamespace(type="cuda"), None) == [123]
