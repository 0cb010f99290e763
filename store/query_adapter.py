"""A query adapter: a small map on the vector of a question, so that it lies nearer to the passages that answer it.

q' = normalise(q + (q A) B), with A of (dimension, rank) and B of (rank, dimension). The chunks' vectors stay as they
are: nothing is embedded again. A linear map of the question alone is LlamaIndex' idea ("Fine-tuning a linear adapter
for any embedding model", 2023); low-rank and beside the identity it is LoRA's (Hu et al. 2021).

adapters/0002/
  query_adapter.safetensors   A and B, float32
  card.json                   written last: a folder without it is garbage
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from store.durable import private, sync_folder, write_text
from store.errors import Corrupt
from store.types import CARD, QUERY, Vectors

WEIGHTS = "query_adapter.safetensors"
WAY_OUT = "`memex rollback SNAPSHOT --only model` to a state before it, or restore it from a backup"


@dataclass(frozen=True, slots=True, eq=False)
class QueryAdapter:
    """`down` is A and `up` is B."""

    down: Vectors
    up: Vectors

    def move(self, vectors: Vectors) -> Vectors:
        """The moved vectors of questions, of unit length; of one, shape (dimension,), or of several."""
        moved = vectors + vectors @ self.down @ self.up
        return np.asarray(moved / np.linalg.norm(moved, axis=-1, keepdims=True), np.float32)


def save(folder: Path, adapter: QueryAdapter, card: Mapping[str, Any]) -> str:
    """Write an adapter, whole once its card is there; returns the sha256 of its weights. `card` names at least `base`,
    the fingerprint of the embedder whose questions it moves, and `documents`, the ids of those that it learned from."""
    from safetensors.numpy import save as packed

    folder.mkdir(parents=True, exist_ok=True)  # it may be there from before a kill
    weights = packed({"down": np.ascontiguousarray(adapter.down), "up": np.ascontiguousarray(adapter.up)})
    with open(folder / WEIGHTS, "wb", opener=private) as opened:
        opened.write(weights)
        opened.flush()
        os.fsync(opened.fileno())
    digest = hashlib.sha256(weights).hexdigest()
    write_text(folder / CARD, json.dumps({**card, "kind": QUERY, "sha256": digest}, indent=1) + "\n")
    sync_folder(folder.parent)
    return digest


def load(folder: Path, base: str) -> QueryAdapter:
    """The adapter in a folder. Raises Corrupt when it is not whole, not a query adapter, or not what its card says, and
    when it moves the questions of another embedder than `base`, the fingerprint of the one in use."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as unpacked

    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        weights = (folder / WEIGHTS).read_bytes()
    except (OSError, ValueError) as error:
        raise Corrupt(f"{folder} is not a whole query adapter ({error}); {WAY_OUT}") from error
    if not isinstance(card, dict) or card.get("kind") != QUERY:
        raise Corrupt(f"{folder} is not a query adapter; {WAY_OUT}")
    if hashlib.sha256(weights).hexdigest() != card.get("sha256"):
        raise Corrupt(f"{folder / WEIGHTS} is not what its card says (sha256 differs); {WAY_OUT}")
    if card.get("base") != base:
        raise Corrupt(
            f"{folder} was made for another embedder ({card.get('base')}, in use is {base}); set embedding.model back, "
            "or `memex rollback SNAPSHOT --only model` to a state before it"
        )
    try:
        found = unpacked(weights)
        return QueryAdapter(found["down"], found["up"])
    except (SafetensorError, KeyError) as error:
        raise Corrupt(f"{folder / WEIGHTS} cannot be read ({error}); {WAY_OUT}") from error
