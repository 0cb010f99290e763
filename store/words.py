"""English words that are in most texts and most questions, and so tell nothing of either."""

from __future__ import annotations

import re

COMMON = frozenset(
    re.findall(
        r"\w+",
        """a an and are as at be been but by can could did do does for from had has have he her his how i if in into is
        it its may me my no not of on or our she should so some such than that the their them then there these they this
        those to us was we were what when where which who whom whose why will with would you your""",
    )
)
