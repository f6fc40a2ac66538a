"""What a run of both stages may say: each of our facts in one line, and nobody's traceback."""

from __future__ import annotations

import re
from collections import Counter

STAGES = 2  # a process each: what a stage says of itself is said by both
MOST = 40  # lines of ours in a run of both stages, its proofs and its listening (there were 40 of the proofs alone)
OURS = re.compile(r"APT: (.*?)\s*(?:\(\d+:\w+\.py:\d+\))?\s*$", re.M)


def check(log: str) -> None:
    """Of one command. The host's own logging is not looked at."""
    assert "Traceback" not in log, log[-4000:]
    said = Counter(OURS.findall(log))
    assert said, "nothing of ours in this log"
    assert {line: count for line, count in said.items() if count > STAGES} == {}
    assert said.total() <= MOST, "\n".join(said.elements())
