"""`make bench`: runs the benchmarks, prints each figure beside what it must reach, and writes them as JSON.

`python -m tests.bench [--quick] [NAME...]` runs some of them. Figures are ratios measured in one run against a named
baseline wherever one exists; absolute seconds are those of this machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BENCHES = ("embedding", "ingest", "daemon", "training", "store", "retrieval", "quality", "query", "learning")
HOURS = ("aa", "stream")  # run by name alone
RESULTS = Path(__file__).parent / "results"
# figure -> (at least, at most)
TARGETS: dict[str, tuple[float | None, float | None]] = {
    "full_ratio": (1.0, None),
    "mixed_ratio": (1.35, None),
    "min_cosine": (0.999, None),
    "matmul_share": (0.75, None),
    "openvino_full_ratio": (1.15, None),
    "openvino_mixed_ratio": (1.5, None),
    "openvino_min_cosine": (0.999, None),
    "openvino_matmul_share": (0.85, None),
    "ingest_overhead_over_embedding": (None, 0.2),
    "unchanged_seconds": (None, 1.0),
    "unchanged_over_bare_walk": (None, 15.0),
    "edit_paragraph_at_top_embedded": (None, 3),
    "edit_word_in_middle_embedded": (None, 2),
    "edit_word_share_above_two": (None, 0.02),
    "rename_embedded": (None, 0),
    "rename_seconds": (None, 3.0),
    "copy_embedded": (None, 0),
    "put_back_embedded": (None, 0),
    "close_to_searchable_p50": (None, 0.5),
    "close_to_searchable_p95": (None, 1.0),
    "during_backfill_p95": (None, 5.0),
    "training_search_p95_over_idle": (None, 2.0),
    "training_close_to_searchable_p95_over_idle": (None, 2.0),
    "memory_growth": (None, 0.3),
    "rollback_many_over_few": (None, 2.0),
    "rollback_seconds_many": (None, 0.15),
    "snapshot_many_over_few": (None, 2.0),
    "snapshot_seconds_many": (None, 0.1),
    "search_at_snapshot_over_head": (None, 1.3),
    "wear_disk_over_bulk": (None, 2.0),
    "wear_search_over_bulk": (None, 1.3),
    "daily_snapshots_disk_over_one": (None, 3.0),
    "hybrid_p50_over_bare": (None, 1.3),
    "hybrid_p99_over_bare": (None, 2.0),
    "cached_p50_seconds": (None, 0.001),
    "vector_over_numpy": (None, 1.0),
    "vector_recall_at_10": (0.99, None),
    "clients_throughput_over_one": (1.5, None),
    "clients_p99_over_p50": (None, 4.0),
    "first_token_over_bare": (None, 1.1),
    "hybrid_least_gain": (0.0, None),
    "bm25_farthest_from_reference": (None, 0.02),
    "vector_least_over_exact": (-0.005, None),
    "query_promoted_though_no_better": (None, 0),
    "train_upper_epochs_1_over_plain": (None, 0.8),
    "train_upper_epochs_3_over_plain": (None, 0.5),
    "train_upper_held_to_text_epochs_1_over_plain": (None, 0.8),
    "train_upper_held_to_text_epochs_3_over_plain": (None, 0.5),
    "train_upper_losses_apart": (None, 0.01),
    "train_all_epochs_1_over_plain": (None, 0.8),
    "train_all_losses_apart": (None, 0.01),
    "evaluate_over_one_by_one": (None, 0.4),
    "evaluate_same_answers": (1.0, None),
    "aa_promoted": (None, 1),
    "stream_gain_lower": (0.0, None),
    "stream_drop_over_base": (None, 0.5),
    "stream_abstains_when_absent": (0.8, None),
    "stream_false_refusals": (None, 0.1),
    "stream_backward_transfer": (-0.01, None),
    "stream_general_rise": (None, 0.05),
    "stream_longest_cycle_seconds": (None, 1800.0),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, for trying the benchmarks out")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHES)} (the default); {', '.join(HOURS)}"
    )
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in asked.names or BENCHES:
        print(f"{name} ...", flush=True)
        found = importlib.import_module(f"tests.bench.bench_{name}").run(quick=asked.quick)
        for figure, value in found.items():
            print(f"  {figure:<36}{value:>12.4g}{verdict(figure, value)}", flush=True)
        figures |= found
    write(figures, asked)
    missed = [figure for figure, value in figures.items() if "MISSED" in verdict(figure, value)]
    print(f"{len(figures)} figures, {len(missed)} missed: {', '.join(missed) or 'none'}")
    return 0


def verdict(figure: str, value: float) -> str:
    least, most = TARGETS.get(figure, (None, None))
    if least is not None:
        return f"   at least {least:g}{'' if value >= least else '  MISSED'}"
    if most is not None:
        return f"   at most {most:g}{'' if value <= most else '  MISSED'}"
    return ""


def write(figures: dict[str, Any], asked: argparse.Namespace) -> None:
    """Keep the figures with the command, the date and the machine."""
    RESULTS.mkdir(exist_ok=True)
    name = "-".join(asked.names) if asked.names else "all"
    kept = {
        "command": " ".join(["python -m tests.bench", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "figures": figures,
    }
    (RESULTS / f"{name}{'-quick' if asked.quick else ''}.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
