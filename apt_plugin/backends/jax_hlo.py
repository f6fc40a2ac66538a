"""Matrix FLOPs of a compiled JAX program: dots and convolutions of the optimised HLO, loops weighted by trip counts.

`cost_analysis()` counts the body of a scan once whatever its length, and openpi's layers are one scan.
"""

from __future__ import annotations

import math
import re
from typing import Any

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_OP = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_SHAPE = re.compile(r"\w+\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def _dims(shape: str) -> list[int]:
    found = _SHAPE.search(shape)
    return [int(d) for d in found[1].split(",") if d] if found else []


def flops(compiled: Any, rounds: int | None = None) -> float:
    """2 x multiply-adds of every dot and convolution, fused ones included.

    Args:
        rounds: trips of a loop whose end XLA cannot tell (openpi integrates until a time is reached).

    Raises:
        ValueError: a loop without a known trip count, or a matrix product hidden in a custom call: a count that
            leaves something out is worse than none.
    """
    bodies: dict[str, list[str]] = {}
    entry, current = "", None
    for line in compiled.as_text().splitlines():
        if match := _COMPUTATION.match(line):
            current = match[1]
            bodies[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current is not None:
            bodies[current].append(line)

    known: dict[str, float] = {}

    def count(name: str) -> float:
        if name not in known:
            known[name] = 0.0
            shapes = {m[1]: m[2] for line in bodies[name] if (m := _OP.match(line))}
            known[name] = sum(_line(line, shapes) for line in bodies[name])
        return known[name]

    def _line(line: str, shapes: dict[str, str]) -> float:
        match = _OP.match(line)
        if match is None:
            return 0.0
        _, out, kind, rest = match.groups()
        operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
        if kind == "dot":
            left = _dims(shapes[operands[0]])
            axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line)[1]  # type: ignore[index]
            return 2.0 * math.prod(_dims(out)) * math.prod(left[int(a)] for a in axes.split(",") if a)
        if kind == "convolution":
            kernel = _dims(shapes[operands[1]])
            labels = re.search(r"dim_labels=\w+_(\w+)->", line)[1]  # type: ignore[index]
            return 2.0 * math.prod(_dims(out)) * math.prod(kernel) / kernel[labels.index("o")]
        if kind == "custom-call" and re.search("matmul|gemm|dot", line):
            raise ValueError(f"a matrix product in a custom call: {line[:120]}")
        called = sum(count(name) for name in _CALLED.findall(line) if name in bodies)
        if kind == "while" and called:
            trips = _TRIPS.search(line)
            if trips is None and rounds is not None:
                return rounds * called
            if trips is None:
                raise ValueError(f"a loop whose trip count XLA does not know: {line[:120]}")
            return int(trips[1]) * called
        if kind == "conditional":
            branches = re.findall(r"%([\w.\-]+)", line.split("branch_computations=")[-1].split("}")[0])
            return max((count(name) for name in branches if name in bodies), default=0.0)
        return called

    return count(entry)
