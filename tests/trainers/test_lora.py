import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from store.errors import Corrupt, TrainingFailed
from tests.trainers.conftest import make_example, make_pages
from trainers import lora, prompt
from trainers.model import LanguageModel
from trainers.training import train

SETTINGS = lora.Settings(max_steps=6, lr=1e-2, batch=3)
CHAT = prompt.messages("what is server 1", make_example(1).passages)


def trained(path: Path, directory: Path, settings: lora.Settings = SETTINGS) -> LanguageModel:
    model = LanguageModel.load(path, device="cpu")
    lora.prepare(model.model, settings)
    train(model.model, make_pages(model), [], settings)
    lora.save(model.model, directory, settings)
    lora.write_card(directory, settings, {"base": {"name": "tiny", "sha256": model.fingerprint}})
    return model


@pytest.fixture(scope="module")
def adapter(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("adapters") / "1"
    trained(tiny_path, directory)
    return directory


def test_the_same_run_twice_gives_the_same_adapter(tiny_path: Path, tmp_path: Path, adapter: Path) -> None:
    trained(tiny_path, tmp_path / "again")
    trained(tiny_path, tmp_path / "other", dataclasses.replace(SETTINGS, seed=1))
    assert (tmp_path / "again" / lora.WEIGHTS).read_bytes() == (adapter / lora.WEIGHTS).read_bytes()
    assert (tmp_path / "other" / lora.WEIGHTS).read_bytes() != (adapter / lora.WEIGHTS).read_bytes()


def test_the_card_tells_where_the_adapter_came_from(adapter: Path) -> None:
    card = lora.read_card(adapter)
    assert card["settings"]["rank"] == 8
    assert len(card["sha256"]) == 64
    assert set(card["versions"]) == {"torch", "transformers", "peft", "safetensors"}
    assert {path.name for path in adapter.iterdir()} == {lora.WEIGHTS, lora.CONFIG, lora.CARD}


def test_a_saved_adapter_serves_as_the_trained_one_and_can_be_switched_off(tiny_path: Path, tmp_path: Path) -> None:
    model = trained(tiny_path, tmp_path / "a", dataclasses.replace(SETTINGS, max_steps=15))
    fresh = LanguageModel.load(tiny_path, device="cpu")
    base, before = fresh.generate(CHAT, 8).text, fresh.nll(["red blue"])
    fresh.use_adapter(tmp_path / "a")
    assert fresh.generate(CHAT, 8).text == model.generate(CHAT, 8).text
    assert fresh.nll(["red blue"]) == model.nll(["red blue"]) != before
    fresh.use_adapter(None)
    assert (fresh.generate(CHAT, 8).text, fresh.nll(["red blue"])) == (base, before)
    assert fresh.adapter is None


def test_plain_peft_loads_a_saved_adapter(tiny_path: Path, adapter: Path) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    ours = LanguageModel.load(tiny_path, device="cpu")
    ours.use_adapter(adapter)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_path), str(adapter))
    ids = torch.tensor([ours.encode(CHAT)])
    with torch.no_grad():
        assert torch.equal(ours.model(ids).logits, theirs(ids).logits)


def test_merged_it_is_a_plain_model_that_says_the_same(tiny_path: Path, adapter: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours = LanguageModel.load(tiny_path, device="cpu")
    ours.use_adapter(adapter)
    LanguageModel.load(tiny_path, device="cpu").save_merged(adapter, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert {name for name, _ in plain.named_parameters()} == {
        name for name, _ in AutoModelForCausalLM.from_pretrained(tiny_path).named_parameters()
    }
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("red")["input_ids"] == ours.tokenizer("red")["input_ids"]
    ids = torch.tensor([ours.encode(CHAT)])
    with torch.no_grad():
        assert torch.allclose(ours.model(ids).logits, plain(ids).logits, atol=1e-4)


def test_many_adapters_are_switched_and_old_ones_let_go(tiny_path: Path, adapter: Path, tmp_path: Path) -> None:
    model = LanguageModel.load(tiny_path, device="cpu")
    model.use_adapter(adapter)
    expected = model.nll(["red blue"])
    for seed in range(6):
        trained(tiny_path, tmp_path / str(seed), dataclasses.replace(SETTINGS, seed=seed + 5, max_steps=2))
        model.use_adapter(tmp_path / str(seed))
        assert model.nll(["red blue"]) != expected
    layer = model.model.model.layers[0].self_attn.q_proj
    assert len(layer.lora_A) == 4
    model.use_adapter(adapter)
    assert model.nll(["red blue"]) == expected


def test_letting_an_adapter_go_leaves_another_of_the_same_weights(
    tiny_path: Path, adapter: Path, tmp_path: Path
) -> None:
    model = LanguageModel.load(tiny_path, device="cpu")
    twin = tmp_path / "twin"
    shutil.copytree(adapter, twin)
    model.use_adapter(adapter)
    expected = model.nll(["red blue"])
    for seed in range(2):
        trained(tiny_path, tmp_path / str(seed), dataclasses.replace(SETTINGS, seed=seed + 5, max_steps=2))
        model.use_adapter(tmp_path / str(seed))
    model.use_adapter(twin)
    trained(tiny_path, tmp_path / "last", dataclasses.replace(SETTINGS, seed=9, max_steps=2))
    model.use_adapter(tmp_path / "last")  # the first is let go
    model.use_adapter(twin)
    assert model.nll(["red blue"]) == expected


def test_all_linear_layers_learn_unless_some_are_named(tiny_path: Path) -> None:
    model = LanguageModel.load(tiny_path, "cpu")
    lora.prepare(model.model, SETTINGS)
    names = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in lora.trainable(model.model)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    named = LanguageModel.load(tiny_path, "cpu")
    lora.prepare(named.model, dataclasses.replace(SETTINGS, targets=("q_proj",)))
    assert {"q_proj"} == {name.rpartition(".lora_")[0].rpartition(".")[2] for name in lora.trainable(named.model)}
    with pytest.raises(
        TrainingFailed, match=r"no layers are named c_attn; set refresh.targets to some of down_proj, .*v_proj"
    ):
        lora.prepare(named.model, dataclasses.replace(SETTINGS, targets=("c_attn",)))


def damaged(adapter: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(adapter, copy)
    return copy


def test_a_directory_without_a_card_is_garbage(tiny_path: Path, adapter: Path, tmp_path: Path) -> None:
    copy = damaged(adapter, tmp_path)
    (copy / lora.CARD).unlink()
    with pytest.raises(Corrupt, match=r"card\.json"):
        LanguageModel.load(tiny_path).use_adapter(copy)


def test_other_formats_and_changed_weights_are_refused(tiny_path: Path, adapter: Path, tmp_path: Path) -> None:
    copy = damaged(adapter, tmp_path)
    model = LanguageModel.load(tiny_path, device="cpu")
    model.use_adapter(adapter)
    weights = copy / lora.WEIGHTS
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(Corrupt, match="sha256"):
        model.use_adapter(copy)
    weights.rename(copy / "adapter_model.bin")
    with pytest.raises(Corrupt, match="safetensors"):
        model.use_adapter(copy)
    assert model.adapter == adapter.resolve()  # what served before serves on


def test_an_adapter_of_another_base_is_refused(tiny_path: Path, adapter: Path, tmp_path: Path) -> None:
    copy = damaged(adapter, tmp_path)
    card = json.loads((copy / lora.CARD).read_text())
    card["base"]["sha256"] = "0" * 64
    (copy / lora.CARD).write_text(json.dumps(card))
    with pytest.raises(Corrupt, match="base model"):
        LanguageModel.load(tiny_path).use_adapter(copy)
