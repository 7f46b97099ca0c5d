"""The table of docs/sparse.md that says when routing is static."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.config import Config
from machines import gpu, plan_for

PAGE = Path(__file__).parents[2] / "docs" / "sparse.md"


def table() -> dict[str, str]:
    """What for -> the routing that the page names."""
    part = PAGE.read_text().split("## 5. Static routing")[1].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in part.splitlines() if line.startswith("|")]
    return {what.strip(): routing.strip() for what, routing in rows[2:]}


@pytest.mark.covers("KRN-12: when to use table")
def test_the_page_says_when_to_use_it_and_its_default_is_the_plan_s() -> None:
    found = table()
    assert found.keys() == {"training", "CUDA graphs", "profiling", "debugging"}
    assert {
        word for word, routing in found.items() if "dynamic (default)" in routing
    } == {"training"}
    assert all(found[word].startswith("static") for word in found if word != "training")
    start = {"vocab_size": 64, "steps": 2, "use_mod": True}
    for options, mode in (({}, "dynamic"), ({"static_routing_mode": True}, "static")):
        plan = plan_for(Config(**start, **options), gpu())
        assert plan.spec.mod is not None and plan.spec.mod.mode == mode
