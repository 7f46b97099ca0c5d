"""Who computes attention: by hardware, package and sequence length, never silently."""

from __future__ import annotations

import json

import pytest

import lumina
from lumina.cli.options import add_config_options, config_from_args
from lumina.cli.parsing import Parser, parse
from lumina.config import Config
from lumina.observe.banner import banner_lines
from lumina.plan.kernels import FLASH3_LENGTH, kernel_family
from machines import cpu, gpu, plan_for
from tiny_runs import Runs

WITH_PACKAGE = {"flash3": True, "flash3_detail": "flash_attn_interface"}
WITHOUT = {"flash3_detail": "the package flash-attn-3 is not installed"}
A100 = ("NVIDIA A100-SXM4-80GB", 80, (8, 0))
T4 = ("Tesla T4", 15, (7, 5))
BLACKWELL = ("NVIDIA B200", 180, (10, 0))


def config(**options):
    start = {"vocab_size": 64, "steps": 10, "global_batch_size": 8, "seq_length": 2048}
    return Config(**(start | options))


CHOICES = {
    # machine, options -> backend, and what the reason says
    "hopper with the package": (gpu(**WITH_PACKAGE), {}, "flash3", "Hopper"),
    "hopper without it": (gpu(**WITHOUT), {}, "flash2", "not installed"),
    "short rows": (gpu(**WITH_PACKAGE), {"seq_length": 512}, "flash2", "short"),
    "ampere": (gpu(*A100, **WITH_PACKAGE), {}, "flash2", "this is 8.0"),
    "left out": (
        gpu(**WITH_PACKAGE),
        {"experimental_fa3": False},
        "flash2",
        "no-experimental",
    ),
    "named in short rows": (
        gpu(**WITH_PACKAGE),
        {"experimental_fa3": True, "seq_length": 512},
        "flash3",
        "python",
    ),
    "more than 32K tokens": (
        gpu(**WITH_PACKAGE),
        {"seq_length": 65536},
        "flash3",
        "Hopper",
    ),
    "blackwell": (gpu(*BLACKWELL, **WITH_PACKAGE), {}, "flash2", "this is 10.0"),
    "turing": (gpu(*T4), {}, "sdpa", "capability 8.0"),
    "float32": (gpu(**WITH_PACKAGE), {"precision": "fp32"}, "sdpa", "16-bit"),
    "odd heads": (gpu(**WITH_PACKAGE), {"head_dim": 36}, "sdpa", "heads of 36"),
    "wide heads": (gpu(**WITH_PACKAGE), {"head_dim": 320}, "sdpa", "heads of 320"),
    "no GPU": (cpu(), {}, "sdpa", "CUDA"),
    "puzzles": (gpu(**WITH_PACKAGE), {"use_hrm": True}, "sdpa", "causal"),
}


@pytest.mark.covers("MEM-08")
@pytest.mark.parametrize("machine", [gpu(**WITHOUT), gpu(*A100, **WITH_PACKAGE)])
def test_flash_attention_is_automatic_above_512_tokens(machine):
    """In shorter rows too: it needs no mask of packed documents at any length."""
    for length in (256, 513, 1024, 2048, 131_072):
        plan = plan_for(config(seq_length=length, batch_size=1), machine)
        assert kernel_family(plan.attention) == "varlen", length
        assert plan.attention == "flash2"
    named = plan_for(config(seq_length=513, attention="sdpa"), machine)
    assert named.attention == "sdpa"


@pytest.mark.covers(
    "MOD-09: chosen by hardware, package and sequence length",
    "KRN-08: needs package and Hopper+",
    "KRN-08: missing package, older GPU",
    "KRN-08: >32K sequences",
)
@pytest.mark.parametrize("case", CHOICES)
def test_the_best_there_is_by_hardware_package_and_length(case):
    machine, options, backend, words = CHOICES[case]
    plan = plan_for(config(**options), machine)
    assert plan.attention == backend
    assert words in plan.reasons["attention"]
    assert not any("is not available" in text for text in plan.warnings)
    # The same with flash switched off, and with plain arithmetic.
    options = {k: v for k, v in options.items() if k != "experimental_fa3"}
    off = plan_for(config(attention=False, **options), machine)
    assert (off.attention, plan_for(config(attention="plain"), machine).attention) == (
        "sdpa",
        "reference",
    )


@pytest.mark.covers("MOD-09: automatic fallback", "KRN-09: fallback to SDPA")
@pytest.mark.parametrize(
    ("asked", "machine", "options", "backend", "words"),
    [
        ("flash3", gpu(**WITHOUT), {}, "flash2", "not installed"),
        ("flash3", gpu(*A100), {}, "flash2", "Hopper"),
        ("flash3", gpu(*T4), {}, "sdpa", "8.0"),
        ("flash3", cpu(), {}, "sdpa", "CUDA"),
        ("flash2", cpu(), {}, "sdpa", "CUDA"),
        ("flash2", gpu(), {"precision": "fp32"}, "sdpa", "16-bit"),
        ("flash2", gpu(), {"head_dim": 36}, "sdpa", "36"),
    ],
)
def test_what_cannot_be_had_gives_way_with_a_warning(
    asked, machine, options, backend, words
):
    plan = plan_for(config(attention=asked, **options), machine)
    assert plan.attention == backend
    assert asked in plan.reasons["attention"] and words in plan.reasons["attention"]
    told = [text for text in plan.warnings if f"attention {asked}" in text]
    assert len(told) == 1 and words in told[0] and backend in told[0]
    shown = " ".join(" ".join(banner_lines(plan, machine, None, None)).split())
    assert told[0] in shown


def test_what_is_asked_for_and_there_is_taken_whatever_the_length():
    short = config(seq_length=256, attention="flash3")
    assert plan_for(short, gpu(**WITH_PACKAGE)).attention == "flash3"
    assert plan_for(config(attention="flash2"), gpu(**WITH_PACKAGE)).attention == (
        "flash2"
    )
    for length, backend in ((FLASH3_LENGTH - 1, "flash2"), (FLASH3_LENGTH, "flash3")):
        plan = plan_for(config(seq_length=length), gpu(**WITH_PACKAGE))
        assert plan.attention == backend


def test_flash_needs_no_mask_in_the_estimate_of_memory():
    sizes = {
        name: plan_for(config(attention=name, batch_size=8), gpu(**WITH_PACKAGE)).memory
        for name in ("flash3", "flash2", "sdpa")
    }
    assert sizes["flash3"] == sizes["flash2"]
    assert sizes["flash3"]["activations"] < sizes["sdpa"]["activations"]


@pytest.mark.covers(
    "MOD-09: switch use_flash_attention / --use-flash-attn / --enable-flash-attention"
)
@pytest.mark.parametrize(
    "name", ["use_flash_attention", "use-flash-attn", "enable-flash-attention"]
)
def test_the_switch_turns_flash_on_and_off(name, tmp_path):
    parser = Parser(prog="lumina test")
    add_config_options(parser, dry_run=True)

    def backend(*words, machine):
        given = config_from_args(parse(parser, ["--vocab-size", "64", *words]))
        return plan_for(given.replace(seq_length=2048), machine).attention

    off = f"--no-{name}"
    for machine, best in (
        (gpu(**WITH_PACKAGE), "flash3"), (gpu(**WITHOUT), "flash2"), (cpu(), "sdpa"),
    ):  # fmt: skip
        assert backend(f"--{name}", machine=machine) == best
        assert backend(off, machine=machine) == "sdpa"
    for value, best in (("true", "flash2"), ("false", "sdpa")):
        path = tmp_path / f"{value}.yaml"
        path.write_text(f"{name.replace('-', '_')}: {value}\nvocab_size: 64\n")
        assert plan_for(Config.load(path), gpu(**WITHOUT)).attention == best


@pytest.mark.parametrize(
    ("word", "leaf"),
    [("varlen", "flash2"), ("flash", "auto"), ("plain", "reference"),
     ("flash_attention_2", "flash2"), ("flash_attention_3", "flash3")],
)  # fmt: skip
def test_other_names_for_backends(word, leaf):
    assert Config(attention=word).system.attention == leaf
    assert kernel_family("flash3") == kernel_family("flash2") == "varlen"


@pytest.mark.covers("MOD-09: automatic fallback", "KRN-09: fallback to SDPA")
def test_a_run_that_falls_back_says_so_and_learns_the_same(tmp_path, monkeypatch):
    """On the CPU: banner, plan.json and events name it; all backends give one loss."""
    runs = Runs(tmp_path, monkeypatch)
    losses = {}
    for asked in ("auto", "flash3", "flash2", "sdpa", "reference"):
        run = runs.train(attention=asked, steps=2)
        losses[asked] = [row["loss"] for row in run.rows]
        found = [e for e in run.events if e["kind"] == "attention_fallback"]
        plan = json.loads((run.folder / "plan.json").read_text())
        if asked not in ("flash3", "flash2"):
            assert not found
            continue
        assert "CUDA" in found[0]["message"] and found[0]["severity"] == "warning"
        assert asked in plan["reasons"]["attention"] and plan["attention"] == "sdpa"
        assert f"attention {asked} is not available here" in " ".join(
            run.printed.split()
        )
    for asked, values in losses.items():
        assert values == pytest.approx(losses["reference"], rel=1e-5), asked
    assert lumina.build_model(Config(vocab_size=64, attention="flash3")) is not None


def test_the_banner_names_what_is_done_with_tokens_before_the_first_block():
    def told(**options):
        plan = plan_for(config(**options), cpu())
        return " ".join(" ".join(banner_lines(plan, cpu(), None, None)).split())

    assert "positions" not in told()
    first = told(pos_encodings="sinusoidal", scale_embeddings=True)
    assert "positions sinusoidal" in first and "scaled embeddings" in first
    assert "stable embedding" in told(use_stable_embedding=True)
