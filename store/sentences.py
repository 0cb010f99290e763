"""A sentence-transformers model as an `Embedder`, computed by torch or by OpenVINO.

Nothing heavy is imported until the first text is embedded: counting
tokens needs the tokenizer alone (40 ms), a fingerprint needs the files alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from store import openvino
from store.errors import ConfigError, MissingModel
from store.types import Vectors
from store.warm import Warm

# Of 256 to 4096 the best for all lengths: what a batch needs stays in the core's cache. More costs mixed lengths up to
# a fifth (padding), less costs long ones.
BATCH_TOKENS = 512
_PROBES = ("Short.", "Two lines,\nof which the second one is longer.", "What a converted model is tried with. " * 8)

Backend = Literal["torch", "openvino"]
Span = tuple[int, int]
Ids = NDArray[np.int64]  # (texts, longest): token ids, or their mask


@dataclass(frozen=True, slots=True)
class _Engine:
    """What computes: `forward` takes token ids and their mask and gives unit rows, on all `workers` at once."""

    forward: Callable[[Ids, Ids], Vectors]
    workers: ThreadPoolExecutor
    count: int


class SentenceTransformerEmbedder:
    """A sentence-transformers model in fp32, fed sorted by length so that hardly any padding is computed.

    Each thread computes a batch of its own. That beats many threads in one batch, which wait for each other at each
    operation, and much so where other processes want the cores too.

    `batch_tokens` bounds the tokens of a batch, padding included. `threads` is how many batches are computed at once
    (0: one for each core; with torch it caps torch's threads in the whole process). `cpu_share` below 1 makes each rest
    between batches; a single text is never delayed, for it is a question and somebody waits. `backend` "openvino"
    computes on the CPU what it converts once into `models` (None: for this object alone).

    The backend is no part of the fingerprint. Its vectors differ from torch's in the last digits (cosine 0.9999999), as
    torch's own do between processors and batches, and a conversion that strays further is refused. So both may share a
    generation and a cache, and a change of the backend embeds nothing anew.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        device: str = "auto",
        backend: Backend = "torch",
        batch_tokens: int = BATCH_TOKENS,
        threads: int = 0,
        cpu_share: float = 1.0,
        models: Path | None = None,
    ) -> None:
        """Raises ConfigError if the backend is not installed or cannot use the device."""
        if backend == "openvino":
            openvino.check_installed()
            if device not in ("auto", "cpu"):
                raise ConfigError(f'embedding.backend = "openvino" computes on the CPU, not on {device!r}.')
        self.name = name
        self.embedded = 0
        self._folder = folder
        self._device = device
        self._batch_tokens = batch_tokens
        self._threads = threads
        self._cpu_share = cpu_share
        self._models = models
        self._modules = _read_modules(folder)
        self._lock = threading.Lock()
        self._engine = Warm(self._with_openvino if backend == "openvino" else self._with_torch)

    @cached_property
    def fingerprint(self) -> str:
        """A hash over the settings and weights of every module; the folder's name, device and backend do not enter."""
        digest = hashlib.sha256(b"float32")
        folders = sorted({self._folder, *(self._folder / module["path"] for module in self._modules)})
        for path in (file for folder in folders for file in sorted(folder.glob("*")) if _makes_vectors(file)):
            digest.update(path.relative_to(self._folder).as_posix().encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:32]

    @cached_property
    def dimension(self) -> int:
        size: int = _read_json(self._transformer_folder / "config.json")["hidden_size"]
        for module in self._modules:
            settings = _read_json(self._folder / module["path"] / "config.json") if module["path"] else {}
            if module["type"].endswith("Pooling"):
                size *= max(1, sum(value is True for key, value in settings.items() if key.startswith("pooling_mode_")))
            size = settings.get("out_features", size)
        return size

    @cached_property
    def window(self) -> int:
        limits = [
            _read_json(self._transformer_folder / file).get(key)
            for file, key in (
                ("sentence_bert_config.json", "max_seq_length"),
                ("tokenizer_config.json", "model_max_length"),
                ("config.json", "max_position_embeddings"),
            )
        ]
        special: int = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        return min(int(limit) for limit in limits if limit) - special

    def spans(self, texts: Sequence[str]) -> list[list[Span]]:
        return [encoding.offsets for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.empty((len(texts), self.dimension), np.float32)
        if not texts:
            return vectors
        tokens = self._tokens(texts)
        longest = self.window + self._tokenizer.num_special_tokens_to_add(is_pair=False)
        for i, ids in enumerate(tokens):
            if len(ids) > longest:
                raise ValueError(f"text {i} has {len(ids)} tokens and the model sees {longest}")
        lengths = [len(ids) for ids in tokens]
        engine = self._engine.get()
        rest = 1 / self._cpu_share - 1 if len(texts) > 1 else 0

        def compute(batch: list[int]) -> None:
            started = time.perf_counter()
            vectors[batch] = engine.forward(*_padded([tokens[i] for i in batch]))
            if rest:
                time.sleep((time.perf_counter() - started) * rest)

        each = -(-sum(lengths) // engine.count)  # so that a few texts, too, make work for all
        batches = list(batches_by_length(lengths, min(self._batch_tokens, each)))
        if len(batches) == 1:
            compute(batches[0])  # here, lest a question waits for the workers
        else:
            list(engine.workers.map(compute, batches))
        with self._lock:
            self.embedded += len(texts)
        return vectors

    def put_down(self, idle_seconds: float) -> bool:
        return self._engine.put_down(idle_seconds)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    @cached_property
    def _transformer_folder(self) -> Path:
        return self._folder / self._modules[0]["path"]

    @cached_property
    def _tokenizer(self) -> Any:
        """The fast tokenizer alone, freed of the truncation and padding that its file may ask for."""
        from tokenizers import Tokenizer, normalizers

        file = self._transformer_folder / "tokenizer.json"
        if not file.is_file():
            raise MissingModel(f"{self._folder} has no tokenizer.json: memex needs a model with a fast tokenizer.")
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if _read_json(self._transformer_folder / "sentence_bert_config.json").get("do_lower_case"):
            own = [tokenizer.normalizer] if tokenizer.normalizer else []
            tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
        return tokenizer

    def _with_torch(self) -> _Engine:
        import torch

        if self._threads:
            torch.set_num_threads(self._threads)
        model = _load(self._folder, None if self._device == "auto" else self._device)  # None: cuda, mps, else cpu
        device = next(model.parameters()).device

        def forward(ids: Ids, mask: Ids) -> Vectors:
            with torch.inference_mode():
                rows = model(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))
                return rows.cpu().numpy()  # type: ignore[no-any-return]

        count = torch.get_num_threads() if device.type == "cpu" else 1
        return _Engine(forward, _single_threaded(count), count)

    def _with_openvino(self) -> _Engine:
        count = self._threads or len(os.sched_getaffinity(0))
        forward = openvino.open_model(
            lambda: _load(self._folder, "cpu"),
            _padded(self._tokens(_PROBES)),
            self._models and self._models / f"openvino-{openvino.version()}-{self.fingerprint}",
            threads=count,
        )
        return _Engine(forward, ThreadPoolExecutor(count, "embed"), count)


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices grouped so that neighbours in length share a batch of at most `batch_tokens` tokens with its padding,
    or hold one text. Longest first: what is too much for the memory fails at once, not at the end."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def _padded(tokens: Sequence[list[int]]) -> tuple[Ids, Ids]:
    """Token ids, filled up with zeros, and the mask that tells them apart."""
    ids = np.zeros((len(tokens), max(map(len, tokens))), np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(tokens):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def _load(folder: Path, device: str | None) -> Any:
    """A torch module: token ids and mask -> unit rows."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    class UnitRows(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            found = self.model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
            return torch.nn.functional.normalize(found.float(), dim=1)

    logging.disable_progress_bar()
    model = SentenceTransformer(
        str(folder),
        device=device,
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"dtype": torch.float32, "use_safetensors": True},
    )
    return UnitRows(model).eval()


def _single_threaded(count: int) -> ThreadPoolExecutor:
    """Workers on which an operation of torch runs on its own thread alone. It keeps its threads everywhere else."""
    import torch

    kept = torch.get_num_threads()
    workers = ThreadPoolExecutor(count, "embed")
    settled = threading.Barrier(count + 1)

    def settle() -> None:
        torch.set_num_threads(1)  # of this thread, and the default of threads to come
        settled.wait()

    for _ in range(count):
        workers.submit(settle)
    settled.wait()
    torch.set_num_threads(kept)
    return workers


def _makes_vectors(file: Path) -> bool:
    # config_sentence_transformers.json and data_config.json tell of library versions and training, not of vectors
    if file.name in {"config_sentence_transformers.json", "data_config.json"}:
        return False
    return file.is_file() and file.suffix in {".json", ".safetensors"}


def _read_modules(folder: Path) -> list[dict[str, str]]:
    """What modules.json lists. A bare transformer has no such file; sentence-transformers then adds mean pooling."""
    file = folder / "modules.json"
    if not file.is_file():
        return [{"path": "", "type": "Transformer"}]
    modules: list[dict[str, str]] = json.loads(file.read_text())
    return modules


def _read_json(file: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return settings
