"""Reading what people write for a point in time (pure)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

UNITS = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
}
AGO = re.compile(r"(\d+)\s*(second|minute|hour|day|week)s?\s+ago", re.IGNORECASE)


def parse_time(text: str, now: datetime) -> datetime | None:
    """The UTC time that `text` means, None when it is no time.

    Reads ISO 8601 (local time where no zone is given), `yesterday`, and `2 hours ago`.
    """
    text = text.strip()
    if text.lower() == "yesterday":
        return now - timedelta(days=1)
    if ago := AGO.fullmatch(text):
        return now - int(ago[1]) * UNITS[ago[2].lower()]
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None
