"""Reranking: a cross-encoder reads query and chunk together (Nogueira and Cho 2019, https://arxiv.org/abs/1901.04085)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from store.embedding import find_model
from store.warm import Warm

BATCH = 8  # chunks between two looks at the clock


class Reranker(Protocol):
    """A way to judge chunks by reading them together with the query. Safe from any thread."""

    def scores(self, query: str, texts: Sequence[str], seconds: float) -> list[float] | None:
        """How well each text fits the query, 0 to 1, higher is better; None when `seconds` were not enough.

        The time to load a model does not count.
        """

    def put_down(self, idle_seconds: float) -> bool:
        """Let the model go if it was not used in `idle_seconds`."""


class CrossEncoderReranker:
    """A sentence-transformers cross-encoder with one output, in fp32; a text too long for it is cut off."""

    def __init__(self, model: str, *, device: str = "auto") -> None:
        """`model`: a local folder, or a hub name whose files are on this machine. Raises MissingModel."""
        self._folder = find_model(model, "reranking model")
        self._device = None if device == "auto" else device
        self._model: Warm[Any] = Warm(self._load)

    def scores(self, query: str, texts: Sequence[str], seconds: float) -> list[float] | None:
        from torch.nn import Sigmoid

        model = self._model.get()
        until, scores = time.monotonic() + seconds, []
        for start in range(0, len(texts), BATCH):
            if time.monotonic() >= until:
                return None
            pairs = [(query, text) for text in texts[start : start + BATCH]]
            judged = model.predict(pairs, batch_size=BATCH, activation_fn=Sigmoid(), show_progress_bar=False)
            scores += [float(score) for score in judged]
        return None if time.monotonic() >= until else scores

    def put_down(self, idle_seconds: float) -> bool:
        return self._model.put_down(idle_seconds)

    def _load(self) -> Any:
        import torch
        from sentence_transformers import CrossEncoder

        return CrossEncoder(
            str(self._folder),
            num_labels=1,
            device=self._device,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32, "use_safetensors": True},
        )
