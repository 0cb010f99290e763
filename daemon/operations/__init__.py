"""What can be asked of a memory, one function each: the API and the command line offer these and nothing else.

Arguments and results are JSON. Functions in `READ` change nothing but the log of retrievals; those in `WRITE` run on
the thread that writes; those in `WRITE_IN_STEPS` take long and go there step by step (`Runtime.write`), so that others
get their turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daemon.doctor import doctor, repair
from daemon.operations.asking import ask, feedback, search
from daemon.operations.contents import documents, forget, release, show, show_diff, sync
from daemon.operations.evaluation import eval_list, eval_show, replay, unjudged
from daemon.operations.learning import refresh_list, refresh_show
from daemon.operations.states import (
    rollback,
    rollback_plan,
    snapshot_create,
    snapshot_delete,
    snapshot_diff,
    snapshot_list,
    snapshot_pin,
    snapshot_prune,
    snapshot_prune_plan,
    snapshot_show,
)

READ: dict[str, Callable[..., Any]] = {
    one.__name__: one
    for one in (
        *(search, ask, feedback, documents, show, show_diff, snapshot_list, snapshot_show, snapshot_diff),
        *(snapshot_prune_plan, rollback_plan, refresh_list, refresh_show, doctor),
        *(eval_list, eval_show, replay, unjudged),
    )
}
WRITE: dict[str, Callable[..., Any]] = {
    one.__name__: one
    for one in (
        *(snapshot_create, snapshot_delete, snapshot_pin, snapshot_prune),
        *(rollback, forget, repair),
    )
}
WRITE_IN_STEPS: dict[str, Callable[..., Any]] = {one.__name__: one for one in (sync, release)}
