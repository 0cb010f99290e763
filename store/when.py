"""Reading what people write for a point in time or a duration (pure)."""

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
SPAN = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?")


def parse_span(text: str) -> timedelta:
    """A duration in weeks, days and hours: `7d`, `1d12h`, `2w`; "" is none. Raises ValueError."""
    match = SPAN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no duration; write weeks, days and hours as in '2w', '7d' or '1d12h'")
    weeks, days, hours = (int(part or 0) for part in match.groups())
    try:
        return timedelta(weeks=weeks, days=days, hours=hours)
    except OverflowError:
        raise ValueError(f"{text!r} is longer than time goes back") from None


def parse_time(text: str, now: datetime) -> datetime | None:
    """The UTC time that `text` means, None when it is no time.

    Reads ISO 8601 (local time where no zone is given), `yesterday`, and `2 hours ago`.
    """
    text = text.strip()
    if text.lower() == "yesterday":
        return now - timedelta(days=1)
    try:
        if ago := AGO.fullmatch(text):
            return now - int(ago[1]) * UNITS[ago[2].lower()]
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # or it is before the year 1
        return None
