"""What a run of both stages may say: each of our facts in one line, and nobody's traceback."""

from __future__ import annotations

import re
from collections import Counter

PROCESSES = 3  # Stage 1, Stage 2 and `listen` build the policy, a process each, and each names what it replaced
MOST = 40  # lines of ours in a run of both stages, its proofs and its listening: 38 of a tiny π0.5 (797 in all once)
OURS = re.compile(r"APT: (.*?)\s*(?:\(\d+:\w+\.py:\d+\))?\s*$", re.M)


def check(log: str) -> None:
    """Of one command. The host's own logging is not looked at."""
    assert "Traceback" not in log, log[-4000:]
    said = Counter(OURS.findall(log))
    assert said, "nothing of ours in this log"
    assert {line: count for line, count in said.items() if count > PROCESSES} == {}
    assert said.total() <= MOST, "\n".join(said.elements())
