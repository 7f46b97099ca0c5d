"""`lumina profile communication`: what ranks exchange, by kind, and its shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.cli.main import main
from lumina.train.profiling.communication import (
    KINDS,
    Call,
    CommunicationProfile,
    _add_up,
    bus_bytes,
    kind_of,
)
from profiled_ranks import of_two
from training import in_processes

SHAPE = {
    "use_moe": False, "hidden_size": 32, "intermediate_size": 64, "num_layers": 2,
    "num_heads": 2, "num_kv_heads": 1, "vocab_size": 320, "tokenizer_vocab_size": 300,
    "seq_length": 64, "batch_size": 2, "global_batch_size": 4, "device": "cpu",
    "max_grad_norm": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def found(tiny_corpus: Path) -> dict[int, dict[str, Any]]:
    values = SHAPE | {"train_data": (str(tiny_corpus),)}
    return dict(in_processes(of_two, 2, values, answers=2))


@pytest.mark.thorough
@pytest.mark.covers(
    "DST-17: allreduce_time", "DST-17: allgather_time", "DST-17: reduce_scatter_time",
    "DST-17: total_communication_time", "DST-17: communication_overhead",
)  # fmt: skip
def test_each_way_of_sharing_makes_the_collectives_that_it_is_known_for(found):
    assert found[0] == found[1]  # means over the ranks: the same on both
    profile = {way: found[0][way][0] for way in ("ddp", "zero2", "fsdp2")}
    for one in profile.values():
        times = [one[f"{kind}_time"] for kind in KINDS]
        assert [bool(t) for t in times] == [bool(one["calls"][k]) for k in KINDS]
        assert one["total_communication_time"] == pytest.approx(sum(times))
        assert 0 < one["communication_overhead"] < 1
        assert 0 <= one["bubble_time"] < one["total_communication_time"]
        assert one["bandwidth_utilization"] > 0
    assert profile["ddp"]["allreduce_time"] > 0
    assert (
        profile["ddp"]["allgather_time"] == profile["ddp"]["reduce_scatter_time"] == 0
    )
    for way in ("zero2", "fsdp2"):
        assert profile[way]["allgather_time"] > 0
        assert profile[way]["reduce_scatter_time"] > 0
    # FSDP2 gathers weights forwards and backwards, ZeRO-2 once behind the update.
    assert profile["fsdp2"]["bytes"] > 1.2 * profile["zero2"]["bytes"]


@pytest.mark.thorough
def test_ddp_sends_each_gradient_once(found):
    """Two ranks: 2 (n - 1) / n = 1 times the bytes of float32 gradients."""
    profile, parameters = found[0]["ddp"]
    assert 0 <= profile["bytes"] - 4 * parameters < 1024  # and the sums of losses


@pytest.mark.thorough
def test_exchanges_between_experts_are_told_apart(found):
    # 2 x 100 numbers of which half leave; a sum of three sends all of them once.
    assert found[0]["data"] == [("alltoall", 400.0, False), ("allreduce", 12.0, False)]
    assert found[0]["expert"] == [("alltoall", 400.0, True), ("allreduce", 12.0, True)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("allreduce_.default", "allreduce"),
        ("allreduce_coalesced_.default", "allreduce"),
        ("_allgather_base_.default", "allgather"),
        ("allgather_into_tensor_coalesced_.default", "allgather"),
        ("_reduce_scatter_base_.default", "reduce_scatter"),
        ("alltoall_base_.default", "alltoall"),
        ("broadcast_.default", "other"),
        ("barrier.default", "other"),
    ],
)
def test_kinds_of_operations(name, kind):
    assert kind_of(name) == kind


def test_bytes_that_have_to_be_sent():
    part, whole = torch.zeros(10), torch.zeros(40)
    assert bus_bytes("allreduce", [[whole]], 4) == 2 * 3 / 4 * 160
    assert bus_bytes("allgather", [whole, part], 4) == 3 / 4 * 160
    assert bus_bytes("allgather", [[[part] * 4], [part]], 4) == 3 / 4 * 160
    assert bus_bytes("reduce_scatter", [part, whole], 4) == 3 / 4 * 160
    assert bus_bytes("alltoall", [whole, whole, [], []], 4) == 3 / 4 * 160
    assert bus_bytes("other", [[part]], 4) == 40
    assert bus_bytes("other", [], 4) == 0


class Group:
    """This rank and one whose calls took these seconds, as a group of two."""

    size = 2

    def __init__(self, other: list[float]) -> None:
        self.other = torch.tensor(other).double()

    def sum_(self, value):
        return 2 * value  # the other rank measured the same

    def stack(self, value):
        return torch.stack([value, self.other])


@pytest.mark.covers(
    "DST-17: bubble_time", "DST-17: bandwidth_utilization",
    "DST-17: expert_alltoall_time", "DST-17: expert_communication_overhead",
)  # fmt: skip
def test_waiting_for_others_and_shares_of_a_step():
    class Ranks:
        everyone = Group([1.0, 2.0, 1.0, 2.0])

    calls = [Call("allreduce", 3.0, 6e6), Call("alltoall", 2.0, 4e6, experts=True)]
    profile = CommunicationProfile(2, "ddp", reference_bandwidth=1e7)
    _add_up(profile, Ranks(), [7.0, 7.0], [8.0, 12.0], [calls, calls])  # type: ignore[arg-type]
    assert profile.calls == {k: int(k in ("allreduce", "alltoall")) for k in KINDS}
    assert (profile.allreduce_time, profile.alltoall_time) == (3.0, 2.0)
    assert (profile.step_time, profile.watched_step_time) == (7.0, 10.0)
    assert profile.total_communication_time == 5.0
    assert profile.communication_overhead == 0.5
    assert profile.bubble_time == 2.0  # 3 - 1 in the sum; 2 - 2 in the exchange
    assert profile.bandwidth_utilization == pytest.approx(1e7 / 3.0 / 1e7)
    assert profile.expert_alltoall_time == 2.0
    assert profile.expert_communication_overhead == 0.2


def test_one_process_has_nothing_to_profile(tiny_corpus, tmp_path, capsys):
    words = ["profile", "communication", "--train-data", str(tiny_corpus)]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("E002") and "--nproc 2" in error
    (tmp_path / "there").write_text("")
    assert main([*words, "--nproc", "2", "--output", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.thorough
@pytest.mark.covers("DST-17: bubble_time")
def test_the_command_starts_its_ranks_and_prints_the_table(
    tiny_corpus, tmp_path, capfd
):
    flags = [w for k, v in SHAPE.items() if k != "use_moe" and k != "max_grad_norm"
             for w in ("--" + k.replace("_", "-"), str(v))]  # fmt: skip
    words = ["profile", "communication", "--nproc", "2", "--steps", "1", "--no-use-moe"]
    words += ["--warm-up", "0", "--train-data", str(tiny_corpus), "--parallel", "zero2"]
    assert main([*words, *flags, "--output", str(tmp_path / "out")]) == 0
    text = capfd.readouterr().out
    figures = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert figures["world_size"] == 2 and figures["reduce_scatter_time"] > 0
    for word in ("2 processes (zero2)", "reduce_scatter", "waiting for other ranks"):
        assert text.count(word) == 1
    failed = [*words, *flags, "--hidden-size", "31", "--output", str(tmp_path / "no")]
    assert main(failed) == 2
    assert not (tmp_path / "no").exists()
