"""Models as graphs for other tools, and with weights of 8 bits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from infer.networks import tiny, write_run
from lumina.errors import LuminaError
from lumina.infer import graph_files
from lumina.infer.export import export_for_inference
from lumina.infer.graph import Graph, past_shapes
from lumina.infer.graph_files import open_graph, run_in_pieces, write_graph
from lumina.infer.load import filled_network
from lumina.model.build import build_network
from lumina.model.spec import HrmSpec, ModelSpec, ModSpec, MoeSpec, MorSpec, TaskSpec
from lumina.model.stored import stored_pieces
from lumina.state.huggingface import export_folder, import_folder, int8
from lumina.state.weights import open_weights
from stand_ins import stand_in


def shape(**fields):
    plain = {
        "vocab_size": 60, "padded_vocab_size": 64, "hidden_size": 32, "num_layers": 2,
        "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "intermediate_size": 46,
        "seq_length": 64,
    }  # fmt: skip
    return ModelSpec(**(plain | fields))


def latent():
    moe = MoeSpec(
        8, 2, 16, (1,), score="sigmoid", groups=4, top_groups=2, shared_experts=1,
        bias_update_rate=1e-3, score_scale=2.5,
    )  # fmt: skip
    return shape(
        num_kv_heads=4, head_dim=12, mla_kv_rank=12, mla_rope_dim=4, mla_value_dim=8,
        moe=moe,
    )  # fmt: skip


SHAPES = {
    "dense": shape(attention_bias=True, qk_norm="rms", tie_embeddings=True),
    "window": shape(window_size=4, rope_scaling="yarn", rope_factor=2.0,
                    rope_original_length=32),
    "moe": shape(moe=MoeSpec(4, 2, 24, (0, 1))),
    "latent": latent(),
    "one routed block": replace(
        latent(), num_layers=1, moe=replace(latent().moe, layers=(0,))
    ),
}  # fmt: skip


def network_of(spec, seed=1):
    network = build_network(spec, seed=seed).eval()
    with torch.no_grad():  # far from initial, so that a mistake shows
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for name, buffer in network.named_buffers():
            if name.endswith("selection_bias"):
                buffer.normal_(std=0.3)
    return network


def written(tmp_path, name, spec, *, compiled=False):
    network = network_of(spec)
    ids = torch.randint(spec.vocab_size, (3, 11))
    expected = network.logits(ids).detach()
    path = write_graph(Graph(network), tmp_path, name, compiled)
    return path, ids, expected


QUICK = "one routed block"  # of everything that differs: a graph takes seconds
KINDS = [
    kind if kind == QUICK else pytest.param(kind, marks=pytest.mark.slow)
    for kind in SHAPES
]


@pytest.mark.thorough
@pytest.mark.covers("INF-07: onnx")
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_graphs_give_our_logits(kind, tmp_path):
    """With any number of rows and tokens, earlier keys, and padding at the left."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    spec = SHAPES[kind]
    path, ids, expected = written(tmp_path, "onnx", spec)
    run = open_graph(path, spec, False)
    for rows, cut in ((1, 1), (3, 1), (2, 7), (3, 10)):
        found = run_in_pieces(run, spec, ids[:rows], cut)
        torch.testing.assert_close(found, expected[:rows], rtol=1e-4, atol=1e-4)
    padded = F.pad(ids, (3, 0), value=5)
    real = F.pad(torch.ones_like(ids), (3, 0))
    past = [torch.zeros(3, heads, 0, width) for _, heads, width in past_shapes(spec)]
    logits = run(padded, real, (real.cumsum(1) - 1).clamp(min=0), past)[0]
    torch.testing.assert_close(logits[:, 3:], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_large_weights_lie_beside_the_onnx_graph(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(graph_files, "ONE_FILE_BYTES", 1000)
    path, ids, expected = written(tmp_path, "onnx", SHAPES["dense"])
    beside = [file for file in tmp_path.iterdir() if file != path]
    weights = sum(p.nbytes for p in network_of(SHAPES["dense"]).parameters())
    assert len(beside) == 1 and beside[0].stat().st_size >= 0.9 * weights
    run = open_graph(path, SHAPES["dense"], False)
    found = run_in_pieces(run, SHAPES["dense"], ids, 4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


ALONE = """
import sys, torch
for folder in sys.argv[1:]:
    script = torch.jit.load(f"{folder}/model.ts")
    ids, sizes, expected = torch.load(f"{folder}/asked", weights_only=True)
    for rows, cut in ((1, 1), (3, 1), (2, 7), (3, 10)):
        past = [torch.zeros(rows, heads, 0, width) for heads, width in sizes]
        logits = []
        for begin, end in ((0, cut), (cut, 11)):
            real = torch.ones(rows, end, dtype=torch.int64)
            places = torch.arange(begin, end).expand(rows, -1)
            first, *past = script(ids[:rows, begin:end], real, places, past)
            logits.append(first)
        torch.testing.assert_close(torch.cat(logits, 1), expected[:rows])
assert not any(name.startswith("lumina") for name in sys.modules)
"""


@pytest.mark.thorough
@pytest.mark.covers("INF-07: torchscript")
def test_torchscript_runs_where_lumina_is_not_imported(tmp_path):
    folders = []
    for kind in ("window", "latent"):
        folders.append(tmp_path / kind)
        folders[-1].mkdir()
        _, ids, expected = written(folders[-1], "torchscript", SHAPES[kind])
        sizes = [(heads, width) for _, heads, width in past_shapes(SHAPES[kind])]
        torch.save((ids, sizes, expected), folders[-1] / "asked")
    subprocess.run([sys.executable, "-I", "-c", ALONE, *folders], check=True)


@pytest.mark.thorough
def test_a_program_of_torch_export_gives_our_logits(tmp_path):
    try:
        graph_files.require_tools("torch_export", compiled=False)
    except LuminaError as error:
        pytest.skip(error.message)
    spec = SHAPES["moe"]
    path, ids, expected = written(tmp_path, "torch_export", spec)
    run = open_graph(path, spec, False)
    for rows, cut in ((1, 1), (3, 10)):
        found = run_in_pieces(run, spec, ids[:rows], cut)
        torch.testing.assert_close(found, expected[:rows], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_compiled_code_gives_our_logits(tmp_path):
    spec = SHAPES["moe"]
    path, ids, expected = written(tmp_path, "torch_export", spec, compiled=True)
    run = open_graph(path, spec, True)
    for rows, cut in ((1, 1), (3, 1), (3, 10)):
        found = run_in_pieces(run, spec, ids[:rows], cut)
        torch.testing.assert_close(found, expected[:rows], rtol=1e-4, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.covers("INF-07: compile", "INF-07: export_for_inference")
def test_a_run_is_exported_as_machine_code(tokenizer, tmp_path):
    """Read back, it continues rows of any number; other formats refuse by name."""
    network = tiny(
        tokenizer.vocab_size, num_layers=1, num_heads=2, num_kv_heads=1, hidden_size=16
    ).eval()
    run = write_run(tmp_path / "run", {3: network}, tokenizer)
    for name in ("huggingface", "llama", "onnx", "torchscript"):
        with pytest.raises(LuminaError, match=f"E002.*{name} does not go with compile"):
            export_for_inference(run, tmp_path / "no", format=name, compile=True)
    assert not (tmp_path / "no").exists()
    with torch._inductor.config.patch({"aot_inductor.compile_wrapper_opt_level": "O0"}):
        done = export_for_inference(  # what is optimised is not what is looked at
            run, tmp_path / "code", format="torch_export", compile=True
        )
    assert done.difference < 1e-4 and done.title.endswith("for this processor")
    facts = json.loads((tmp_path / "code/export.json").read_text())
    assert facts["compiled"] and "tokenizer.json" in facts["files"]
    ids = torch.randint(tokenizer.vocab_size, (4, 7))
    code = open_graph(tmp_path / "code/model.pt2", network.spec, True)
    for rows, cut in ((1, 1), (4, 3)):
        found = run_in_pieces(code, network.spec, ids[:rows], cut)
        with torch.no_grad():
            wanted = network.logits(ids[:rows])
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("option", "fields"),
    [
        ("use_mod", {"mod": ModSpec((1,))}),
        ("use_mor", {"mor": MorSpec(), "num_layers": 4}),
        ("use_hrm", {"hrm": HrmSpec(mode="language_model"), "num_layers": 8}),
        ("task", {"tasks": TaskSpec(("a", "b"))}),
    ],
)
def test_what_no_graph_holds_is_refused_by_name(option, fields):
    with pytest.raises(LuminaError, match=option) as caught:
        Graph(build_network(shape(**fields), device="meta"))
    assert caught.value.code == "E002"


def test_the_nearest_of_255_steps_is_stored():
    weight = torch.randn(7, 11) * torch.logspace(-6, 3, 7)[:, None]
    weight[3] = 0.0
    small = int8.quantised(weight, torch.float32)
    step = weight.abs().amax(1) / 127
    error = (small.unpacked() - weight).abs().amax(1)
    assert bool((error <= step * 0.5001).all()) and not small.unpacked()[3].any()
    words = int8.packed(small.tensors["values"])
    assert words.shape == (7, 3) and words.dtype == torch.int32
    assert torch.equal(int8.unpacked(words, 11), small.tensors["values"])


@pytest.mark.parametrize("kind", ["moe", "latent", "llama"])
def test_8_bits_come_back_small_and_compute_what_wide_ones_would(kind, tmp_path):
    spec = shape() if kind == "llama" else SHAPES[kind]
    network = network_of(spec)
    export_folder(network, None, tmp_path / "small", bits=8)
    export_folder(network, None, tmp_path / "wide")
    sizes = [
        (tmp_path / name / "model.safetensors").stat().st_size
        for name in ("small", "wide")
    ]
    assert sizes[0] < 0.6 * sizes[1]

    weights = open_weights(tmp_path / "small")
    held = filled_network(weights, torch.device("cpu"), torch.float32).eval()
    memory = {
        name: sum(t.nbytes for n, t in one.state_dict().items() if ".blocks." in n)
        for name, one in (("small", held), ("wide", network))
    }
    assert memory["small"] < 0.4 * memory["wide"], memory
    assert all(one.codec == "int8" for one in stored_pieces(held).values())
    assert stored_pieces(held)

    _, tensors = import_folder(tmp_path / "small")
    wide = build_network(spec).eval()
    from lumina.assemble.logical import join_fused
    from lumina.model.declared import fused_pieces

    pieces = fused_pieces(wide.spec)
    with torch.no_grad():
        for name, tensor in wide.state_dict(keep_vars=True).items():
            tensor.copy_(join_fused(name, pieces, tensors.__getitem__))
    ids = torch.randint(spec.vocab_size, (2, 9))
    torch.testing.assert_close(held.logits(ids), wide.logits(ids))
    for name, tensor in network.state_dict().items():
        kept = any(word in name for word in ("embedding", "head", "router", "norm"))
        if kept and name in tensors:
            rows = spec.vocab_size if len(tensor) == spec.padded_vocab_size else None
            assert torch.equal(tensors[name][:rows], tensor[:rows]), name


@pytest.mark.covers("INF-07: quantize, bits 8", "INF-07: format huggingface")
@pytest.mark.parametrize("kind", ["llama", "moe", "latent"])
def test_transformers_opens_8_bits_and_agrees(kind, tmp_path):
    pytest.importorskip("compressed_tensors")
    transformers = pytest.importorskip("transformers")
    spec = shape() if kind == "llama" else SHAPES[kind]
    export_folder(network_of(spec), None, tmp_path / "hf", bits=8)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    weights = open_weights(tmp_path / "hf")
    ours = filled_network(weights, torch.device("cpu"), torch.float32).eval()
    ids = torch.randint(spec.vocab_size, (2, 9))
    torch.testing.assert_close(
        theirs(ids).logits, ours.logits(ids), rtol=1e-4, atol=1e-5
    )


def test_8_bits_of_another_kind_or_with_a_piece_missing_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    export_folder(network_of(shape()), None, tmp_path / "hf", bits=8)
    weights, config = tmp_path / "hf/model.safetensors", tmp_path / "hf/config.json"
    tensors = load_file(weights)
    lost = "model.layers.1.mlp.up_proj.weight_scale"
    save_file({n: t for n, t in tensors.items() if n != lost}, weights)
    with pytest.raises(LuminaError, match=lost):
        import_folder(tmp_path / "hf")
    bad = tensors | {lost: tensors[lost] * torch.nan}
    save_file(bad, weights)
    with pytest.raises(LuminaError, match="damaged"):
        import_folder(tmp_path / "hf")
    save_file(tensors, weights)
    values = json.loads(config.read_text())
    values["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 4
    config.write_text(json.dumps(values))
    with pytest.raises(LuminaError, match="quantization_config") as caught:
        import_folder(tmp_path / "hf")
    assert caught.value.code == "E002"


def test_missing_tools_are_named_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(
        graph_files, "shutil", stand_in(shutil, which=lambda name: None)
    )
    with pytest.raises(LuminaError, match=r"C\+\+ compiler") as caught:
        graph_files.require_tools("torch_export", compiled=True)
    assert caught.value.code == "E003"
    monkeypatch.setattr(graph_files, "installed", lambda name: False)
    with pytest.raises(LuminaError, match="onnxscript") as caught:
        graph_files.require_tools("onnx", compiled=False)
    assert "luminaai[onnx]" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", ["moe", "latent"])
def test_8_bits_in_half_precision_stay_near_float32(kind, tmp_path):
    network = network_of(SHAPES[kind])
    export_folder(network, None, tmp_path / "hf", bits=8, dtype="bfloat16")
    ids = torch.randint(60, (2, 9))
    place, logits = torch.device("cpu"), {}
    for dtype in (torch.float32, torch.bfloat16):
        held = filled_network(open_weights(tmp_path / "hf"), place, dtype).eval()
        logits[dtype] = held.logits(ids)
    near = logits[torch.float32] - logits[torch.bfloat16]
    assert near.abs().mean() < 0.1 * logits[torch.float32].std()
