"""One file outside the package adds a kind of model that cannot do everything.

It names what it lacks; whatever asks for that refuses with its reason, and goes on with
every other model. No file of the package names the kind.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from infer.networks import tiny
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.features.abilities import ABILITIES
from lumina.features.feature import Feature
from lumina.features.table import FEATURES, register
from lumina.guard.pretest_logs import architecture
from lumina.guard.programs import ProgramSubject, reference_plan
from lumina.infer.bench import decoding_floor
from lumina.infer.kv.settings import CacheSettings
from lumina.model.kinds.kind import Kind
from lumina.model.kinds.table import KINDS, register_kind, titles, why_not
from lumina.plan.shape import resolve_spec
from lumina.train.planned_memory.trace import as_followed
from machines import gpu, plan_for
from training import Trainings

TOY = Path(__file__).with_name("toy_kind.py")
PLAIN = {"vocab_size": 64, "num_heads": 4, "seq_length": 32, "num_layers": 1}
OF_KIND, OTHER = PLAIN | {"hidden_size": 48}, PLAIN | {"hidden_size": 64}


@pytest.fixture
def toy() -> Iterator[Any]:
    """The toy's module; its kind, the last, is taken out of the table again."""
    before, abilities = list(KINDS), dict(ABILITIES)
    found = importlib.util.spec_from_file_location("toy_kind", TOY)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    yield module
    KINDS[:] = before
    ABILITIES.clear()
    ABILITIES.update(abilities)


def _config(shape: dict[str, Any], **options: Any) -> Config:
    return Config(**shape, steps=1, use_moe=False, **options)


def test_an_option_is_refused_by_the_kinds_name_and_reason(toy: Any) -> None:
    asked = {"label_smoothing": 0.1}
    with pytest.raises(LuminaError) as caught:
        plan_for(_config(OF_KIND, **asked))
    told = str(caught.value)
    assert caught.value.code == "E002"
    assert "label_smoothing 0.1" in told and "summing" in told
    assert "a sum has no classes" in told
    plan_for(_config(OF_KIND))
    assert plan_for(_config(OTHER, **asked)).label_smoothing == 0.1
    KINDS[-1] = toy.Doubling()
    assert plan_for(_config(OF_KIND, **asked)).label_smoothing == 0.1


def test_a_feature_with_an_option_is_refused_too(toy: Any) -> None:
    with pytest.raises(LuminaError) as caught:
        plan_for(_config(OF_KIND, feedforward_tile=16))
    assert caught.value.code == "E002"
    assert "feedforward_tile 16" in str(caught.value)
    assert "a sum is over whole rows" in str(caught.value)
    plan_for(_config(OTHER, feedforward_tile=16))
    KINDS[-1] = toy.Doubling()
    plan_for(_config(OF_KIND, feedforward_tile=16))


def test_a_feature_that_chooses_itself_gives_way_with_the_reason(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lumina.features.feature import Choice

    monkeypatch.setitem(FEATURES, "toy_haste", Feature("toy_haste", "is quicker",
                        automatic=lambda p, m: Choice(True, "always")))  # fmt: skip
    assert plan_for(_config(OTHER)).features == ("toy_haste",)
    slow = toy.Summing()
    slow.lacks = {"toy_haste": "a sum takes its time"}
    KINDS[-1] = slow
    plan = plan_for(_config(OF_KIND))
    assert plan.features == ()
    assert "a sum takes its time" in plan.reasons["features.toy_haste"]
    with pytest.raises(LuminaError, match="a sum takes its time"):
        plan_for(_config(OF_KIND, features=("toy_haste",)))


def test_a_device_without_float64_is_refused(toy: Any) -> None:
    apple = gpu("Apple M3", 16, (0, 0), device="mps", compiler=False)
    with pytest.raises(LuminaError) as caught:
        plan_for(_config(OF_KIND), apple)
    assert caught.value.code == "E003" and "summing computes" in str(caught.value)
    plan_for(_config(OTHER), apple)


def test_the_cache_asks_the_model(toy: Any) -> None:
    paged = CacheSettings(paged=True, block=16)
    with pytest.raises(LuminaError, match="paged cache: a sum is not cut") as caught:
        paged.check(tiny(hidden_size=48, num_heads=4))
    assert caught.value.code == "E002"
    paged.check(tiny())


def test_pretests_floors_and_traces_ask_the_model(toy: Any) -> None:
    """What only some kinds can do is asked of the kind, wherever it is."""
    plan, other = plan_for(_config(OF_KIND)), plan_for(_config(OTHER))
    network = tiny(hidden_size=48, num_heads=4)
    assert decoding_floor(network, rows=1, bandwidth=1e9)
    assert reference_plan(plan.replace(attention="sdpa")).attention == "reference"
    slow = toy.Summing()
    slow.lacks = {
        "decoding_floor": "a sum reads nothing twice",
        "plain_attention": "a sum attends to all",
        "pretests": "a sum goes on with the last step",
    }
    slow.assumed, slow.title = "every sum is as long as another", "model of sums"
    KINDS[-1] = slow
    assert decoding_floor(network, rows=1, bandwidth=1e9) is None
    assert reference_plan(plan.replace(attention="sdpa")).attention == "sdpa"
    with pytest.raises(LuminaError, match="which this run does not have") as caught:
        ProgramSubject(plan)
    assert caught.value.code == "E002"
    ProgramSubject(other)
    assert slow.assumed in as_followed(plan)[0]
    assert slow.assumed not in as_followed(other)[0]
    assert architecture(plan) == slow.name and architecture(other) == "dense"
    assert titles()[slow.name] == "model of sums"


def test_what_is_new_asks_by_a_name_of_its_own(toy: Any) -> None:
    """A feature from outside registers what it asks for; the kind knows the name."""
    spec = resolve_spec(_config(OF_KIND))
    assert why_not(spec, "toy_looks") == "there is nothing to see in a sum"
    assert why_not(resolve_spec(_config(OTHER)), "toy_looks") is None
    KINDS[-1] = toy.Doubling()
    assert why_not(spec, "toy_looks") is None


def test_a_name_that_nothing_asks_for_is_refused() -> None:
    class Mistaken(Kind):
        name = "mistaken"
        lacks: Mapping[str, str] = {"paged_cashe": "never"}

    with pytest.raises(LuminaError, match="did you mean 'paged_cache'") as caught:
        register_kind(Mistaken())
    assert caught.value.code == "E005"
    assert all(kind.name != "mistaken" for kind in KINDS)
    with pytest.raises(LuminaError, match="'label_smoothin'"):
        register(Feature("toy", "a toy", lacks={"label_smoothin": "never"}))
    assert "toy" not in FEATURES


def test_a_run_is_refused_and_another_trains(trainings: Trainings) -> None:
    """In a process of its own, with the file named as a plug-in."""
    common = [
        "--plugins", str(TOY), "--no-use-moe", "--num-layers", "1", "--num-heads", "4",
        "--seq-length", "32", "--vocab-size", "300", "--steps", "3",
        "--label-smoothing", "0.1",
    ]  # fmt: skip
    running = trainings.start("refused", *common, "--hidden-size", "48")
    assert running.wait() == 2, running.output
    told = " ".join(running.output.split())
    assert "E002" in told and "a sum has no classes" in told
    trainings.train("trained", *common, "--hidden-size", "64")


def test_every_ability_is_lacked_by_some_kind_of_lumina() -> None:
    """What nothing lacks would be a name without use."""
    lacked = {name for one in FEATURES.values() for name in one.lacks}
    assert lacked == set(ABILITIES)
