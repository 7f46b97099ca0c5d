"""Adapters of PEFT read here, and Lumina's read by PEFT: the same logits."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lumina.infer.load import filled_network
from lumina.model.declared import logical_shapes
from lumina.state.adapters.adapter import Adapter, Piece
from lumina.state.adapters.merging import merged
from lumina.state.adapters.reading import read_adapter
from lumina.state.adapters.writing import write_adapter
from lumina.state.weights import open_weights
from their_models import theirs_of


@pytest.fixture(scope="module", autouse=True)
def _with_peft() -> None:
    """Imported only where these tests run: it takes a second of every worker."""
    global peft
    peft = pytest.importorskip("peft", reason="peft is absent")


FULL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
IDS = torch.randint(0, 90, (2, 16), generator=torch.Generator().manual_seed(3))


def lora(modules=FULL, **options):
    options = {"r": 4, "lora_alpha": 6, "init_lora_weights": False} | options
    return peft.LoraConfig(target_modules=modules, **options)


def ia3():
    return peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        init_ia3_weights=False,
    )


def adalora():
    return peft.AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=5, target_modules=["q_proj", "down_proj"],
        total_step=9, init_lora_weights=False,
    )  # fmt: skip


CASES = {
    "lora": ("qwen3", lora),
    "rslora and a dropout": (
        "mistral", lambda: lora(use_rslora=True, lora_dropout=0.1)
    ),
    "ranks and alphas by module": (
        "llama 3.1",
        lambda: lora(
            rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.up_proj": 7},
            alpha_pattern={"model.layers.0.self_attn.o_proj": 11},
        ),
    ),
    "some layers": ("llama", lambda: lora(["q_proj"], layers_to_transform=[1])),
    "head and table": ("qwen3", lambda: lora(["lm_head", "embed_tokens", "v_proj"])),
    "a head held whole": (
        "qwen3", lambda: lora(["v_proj"], modules_to_save=["lm_head"])
    ),
    "dora": ("mistral", lambda: lora(use_dora=True)),
    "ia3 with biases": ("qwen2", ia3),
    "loha": (
        "llama",
        lambda: peft.LoHaConfig(
            r=3, alpha=5, target_modules=FULL, init_weights=False
        ),
    ),
    "lokr": (
        "llama",
        lambda: peft.LoKrConfig(
            r=2, alpha=5, target_modules=["q_proj", "down_proj"], decompose_factor=4,
            init_weights=False,
        ),
    ),
    "lokr of four": (
        "llama",
        lambda: peft.LoKrConfig(
            r=1, alpha=5, target_modules=["q_proj", "down_proj"], decompose_both=True,
            init_weights=False,
        ),
    ),
    "adalora": ("llama", adalora),
    "experts of mixtral": (
        "mixtral", lambda: lora(["q_proj"], target_parameters=EXPERTS)
    ),
    "experts' down alone": (
        "olmoe", lambda: lora(["q_proj"], target_parameters=EXPERTS[1:])
    ),
    "experts' gate and up alone": (
        "qwen3-moe", lambda: lora(["q_proj"], target_parameters=EXPERTS[:1])
    ),
    "experts beside a dense layer": (
        "qwen3-moe first dense",
        lambda: lora(
            ["o_proj"],
            target_parameters=[
                *EXPERTS, "model.layers.0.mlp.up_proj.weight", "mlp.gate.weight"
            ],
        ),
    ),
    "latent attention and shared experts": (
        "deepseek-v3",
        lambda: lora(
            ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"],
            target_parameters=[*EXPERTS, "shared_experts.down_proj.weight"],
        ),
    ),
}  # fmt: skip
QUICK = ("lora", "experts beside a dense layer")


def drawn_again(adapted):
    """Every tensor of the adapter with values of a size that shows in the logits."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, tensor in adapted.named_parameters():
            if tensor.requires_grad:
                noise = torch.randn(tensor.shape, generator=generator) * 0.15
                tensor.copy_(tensor + noise if "magnitude" in name else noise + 0.05)
    return adapted.eval()


def made(case, tmp_path):
    """A base and an adapter of PEFT in folders, and the logits of the two together."""
    family, config = CASES[case]
    base = theirs_of(family)
    base.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        plain = base(IDS).logits
        adapted = drawn_again(peft.get_peft_model(base, config()))
        adapted.save_pretrained(tmp_path / "adapter")
        return plain, adapted(IDS).logits


def ours(base, adapter):
    """Lumina's logits of a base and an adapter in folders."""
    weights = open_weights(base)
    found = read_adapter(adapter, weights.spec)
    network = filled_network(
        merged(weights, [(found, 1.0)]), torch.device("cpu"), torch.float32
    ).eval()
    with torch.no_grad():
        return weights.spec, found, network.logits(IDS)[..., :90]


@pytest.mark.covers(
    "MOD-38: load", "MOD-38: merge", "INF-11: attaching adapters at inference"
)
@pytest.mark.parametrize(
    "case",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough)
        for name in CASES
    ],
)
def test_an_adapter_goes_from_peft_to_here_and_back_with_equal_logits(case, tmp_path):
    plain, expected = made(case, tmp_path)
    assert (plain - expected).abs().max() > 0.05, "the adapter must show"
    spec, adapter, got = ours(tmp_path / "base", tmp_path / "adapter")
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)

    write_adapter(adapter, spec, tmp_path / "written")
    base = theirs_of(CASES[case][0])
    back = peft.PeftModel.from_pretrained(base, tmp_path / "written").eval()
    with torch.no_grad():
        torch.testing.assert_close(back(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    again = read_adapter(tmp_path / "written", spec)
    assert again.pieces.keys() == adapter.pieces.keys()
    for name, piece in adapter.pieces.items():
        for leaf, tensor in piece.tensors.items():
            assert torch.equal(again.pieces[name].tensors[leaf], tensor), (name, leaf)
    kept = json.loads((tmp_path / "written/lumina_adapter.json").read_text())
    assert kept["dropout"] == adapter.dropout


@pytest.mark.covers("MOD-38: save adapter alone")
@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("lora", ("gate", "up", "down")),
        pytest.param("rslora", ("gate", "up", "down"), marks=pytest.mark.thorough),
        pytest.param("lora", ("up",), marks=pytest.mark.thorough),
    ],
)
def test_experts_adapted_here_one_matrix_at_a_time_load_in_peft(
    method, parts, tmp_path
):
    base = theirs_of("mixtral").eval()
    base.save_pretrained(tmp_path / "base")
    weights = open_weights(tmp_path / "base")
    generator, pieces = torch.Generator().manual_seed(2), {}
    shapes, rank = logical_shapes(weights.spec), {"gate": 2, "up": 4, "down": 3}
    for part in parts:
        name = f"backbone.blocks.1.feedforward.{part}"
        experts, rows, columns = shapes[name]
        a, b = (
            torch.randn(experts, *shape, generator=generator) * 0.3
            for shape in ((rank[part], columns), (rows, rank[part]))
        )
        pieces[name] = Piece({"a": a, "b": b}, rank[part], 5.0)
    adapter = Adapter("made", method, pieces)
    write_adapter(adapter, weights.spec, tmp_path / "adapter")
    network = filled_network(
        merged(weights, [(adapter, 1.0)]), torch.device("cpu"), torch.float32
    ).eval()
    with torch.no_grad():
        plain, wanted = base(IDS).logits, network.logits(IDS)[..., :90]
        got = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        torch.testing.assert_close(got(IDS).logits, wanted, rtol=1e-4, atol=1e-4)
    assert (plain - wanted).abs().max() > 0.05


@pytest.mark.thorough
@pytest.mark.covers("MOD-38: AdaLoRA")
def test_adalora_loads_in_peft_with_the_ranks_that_training_left(tmp_path):
    base = theirs_of("llama").eval()
    base.save_pretrained(tmp_path / "base")
    weights = open_weights(tmp_path / "base")
    generator, pieces = torch.Generator().manual_seed(4), {}
    shapes = logical_shapes(weights.spec)
    for layer in range(3):
        name = f"backbone.blocks.{layer}.attention.q.weight"
        rows, columns = shapes[name]
        a, b, e = (
            torch.randn(*shape, generator=generator)
            for shape in ((4, columns), (rows, 4), (4, 1))
        )
        e[layer + 1 :] = 0.0
        pieces[name] = Piece({"a": a, "b": b, "e": e}, 4, 2.0)
    adapter = Adapter("made", "adalora", pieces)
    write_adapter(adapter, weights.spec, tmp_path / "adapter")
    network = filled_network(
        merged(weights, [(adapter, 1.0)]), torch.device("cpu"), torch.float32
    ).eval()
    with torch.no_grad():
        plain, wanted = base(IDS).logits, network.logits(IDS)[..., :90]
        got = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        torch.testing.assert_close(got(IDS).logits, wanted, rtol=1e-3, atol=1e-3)
    assert (plain - wanted).abs().max() > 0.05


def test_an_adapter_of_transformers_4_holds_each_expert_apart(tmp_path):
    base = theirs_of("mixtral").eval()
    base.save_pretrained(tmp_path / "base")
    generator, tensors = torch.Generator().manual_seed(6), {}
    for layer in range(3):
        for expert in range(5):
            for leaf, rows, columns in (
                ("w1", 48, 32), ("w3", 48, 32), ("w2", 32, 48)
            ):  # fmt: skip
                stem = (
                    f"base_model.model.model.layers.{layer}.block_sparse_moe."
                    f"experts.{expert}.{leaf}.lora_"
                )
                draw = torch.randn(3, columns, generator=generator) * 0.3
                tensors[f"{stem}A.weight"] = draw
                draw = torch.randn(rows, 3, generator=generator) * 0.3
                tensors[f"{stem}B.weight"] = draw
    folder = tmp_path / "adapter"
    lora(["w1", "w2", "w3"], r=3, lora_alpha=5).save_pretrained(folder)
    save_file(tensors, folder / "adapter_model.safetensors")
    _, adapter, got = ours(tmp_path / "base", folder)
    assert len(adapter.pieces) == 9
    with torch.no_grad():
        plain = base(IDS).logits
        theirs = peft.PeftModel.from_pretrained(base, folder).eval()(IDS).logits
    assert (plain - theirs).abs().max() > 0.05
    torch.testing.assert_close(got, theirs, rtol=1e-4, atol=1e-4)
