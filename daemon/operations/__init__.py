"""What can be asked of a memory, one function each: the API and the command line offer these and nothing else.

Arguments and results are JSON. Functions in `READ` change nothing but the log of retrievals; those in `WRITE` need the
writer's lock.
"""

from __future__ import annotations

from daemon.doctor import doctor
from daemon.operations.asking import ask, feedback, search
from daemon.operations.contents import documents, release, show, show_diff, sync
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

READ = {
    one.__name__: one
    for one in (
        *(search, ask, feedback, documents, show, show_diff, snapshot_list, snapshot_show, snapshot_diff),
        *(snapshot_prune_plan, rollback_plan, refresh_list, refresh_show, doctor),
    )
}
WRITE = {
    one.__name__: one
    for one in (sync, snapshot_create, snapshot_delete, snapshot_pin, snapshot_prune, rollback, release)
}
