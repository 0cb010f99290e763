"""The learning benchmarks on less: the figures that hold at any size."""

import pytest

from tests.bench import bench_aa, bench_learning, bench_stream
from tests.bench.__main__ import verdict


@pytest.mark.slow
@pytest.mark.models
def test_learning_is_cheaper_than_the_plain_way_and_the_same() -> None:
    found = bench_learning.run(quick=True)
    assert [name for name, value in found.items() if "MISSED" in verdict(name, value)] == []


@pytest.mark.slow
@pytest.mark.models
def test_what_differs_by_its_seed_alone_is_not_promoted() -> None:
    found = bench_aa.run(quick=True)
    assert found["aa_cycles"] == found["aa_rejected"] + found["aa_inconclusive"] == 2


@pytest.mark.slow
@pytest.mark.models
def test_a_short_stream_is_lived_through() -> None:
    found = bench_stream.run(quick=True)
    assert found["stream_gain"] > 0
    assert found["stream_general_rise"] < 0.05
