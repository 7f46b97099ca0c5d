"""Where the tokens went, layer by layer, in the last steps of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lumina import quantities as q
from lumina.observe.report.record import Record

MOST_CELLS = 2048


def expert_loads(record: Record) -> dict[str, Any] | None:
    """The mean share of each expert in each layer over the last steps.

    Returns:
        `steps` (how many were averaged), `even` (the share of an expert when all are
        used alike, in words) and `rows`: (layer, [(share in words, strength 0 to 9)]).
        None without experts, and where there are too many to show.
    """
    tables = [row["moe.load"] for row in record.metrics.recent if _is_table(row)]
    if not tables:
        return None
    layers, experts = len(tables[-1]), len(tables[-1][0])
    tables = [t for t in tables if len(t) == layers and len(t[0]) == experts]
    if layers * experts > MOST_CELLS:
        return None
    even = 1 / experts
    numbers = (record.spec.get("moe") or {}).get("layers") or range(layers)
    rows = []
    for layer, number in zip(range(layers), numbers, strict=False):
        loads = [_mean(tables, layer, expert) for expert in range(experts)]
        rows.append((number, [(q.share(x), _strength(x, even)) for x in loads]))
    return {"steps": len(tables), "even": q.share(even), "rows": rows}


def _is_table(row: Mapping[str, Any]) -> bool:
    load = row.get("moe.load")
    return isinstance(load, list) and bool(load) and all(
        isinstance(one, list) and len(one) == len(load[0]) > 0 for one in load
    )  # fmt: skip


def _mean(tables: Sequence[Any], layer: int, expert: int) -> float:
    known = list(_known(table[layer][expert] for table in tables))
    return sum(known) / len(known) if known else 0.0


def _known(values: Any) -> Iterator[float]:
    return (number for value in values if (number := q.known(value)) is not None)


def _strength(load: float, even: float) -> int:
    """A shade: 0 without tokens, 5 at the even share, 9 from twice that on."""
    return min(round(load / even * 4.5), 9)
