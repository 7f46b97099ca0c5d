"""Folders of adapters: what is refused, and what the commands make of them."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from infer.networks import tiny
from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.load import load
from lumina.model.spec import MoeSpec
from lumina.state.adapters.adapter import Adapter, Piece
from lumina.state.adapters.reading import read_adapter
from lumina.state.adapters.writing import write_adapter
from lumina.state.huggingface import export_folder

LOGICAL = ("attention.q", "attention.v", "feedforward.down")
IDS = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the dog does not mind the quick brown fox"] * 4, 300)


@pytest.fixture(scope="module")
def base(tokenizer, tmp_path_factory):
    """A model in a folder, and the network that it was made of."""
    network = tiny(vocab_size=tokenizer.vocab_size).eval()
    folder = tmp_path_factory.mktemp("model") / "base"
    return export_folder(network, tokenizer, folder), network


def adapter_for(spec, seed=0, rank=3, alpha=6.0, size=0.2, **changes):
    """LoRA with random values on some matrices of the first layer."""
    from lumina.model.declared import logical_shapes

    generator = torch.Generator().manual_seed(seed)
    shapes, pieces = logical_shapes(spec), {}
    for leaf in LOGICAL:
        name = f"backbone.blocks.0.{leaf}"
        name = name if name in shapes else f"{name}.weight"  # experts' have none
        *lead, rows, columns = shapes[name]
        draw = [
            torch.randn(*lead, *shape, generator=generator) * size
            for shape in ((rank, columns), (rows, rank))
        ]
        pieces[name] = Piece({"a": draw[0], "b": draw[1]}, rank, alpha)
    return replace(Adapter("made", "lora", pieces), **changes)


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    """Two adapters for the model, in folders."""
    place = tmp_path_factory.mktemp("adapters")
    for number, name in enumerate(("one", "two")):
        made = adapter_for(base[1].spec, seed=number)
        write_adapter(made, base[1].spec, place / name, base="the base")
    return place / "one", place / "two"


@contextmanager
def refused(code, *words):
    with pytest.raises(LuminaError) as caught:
        yield
    assert caught.value.code == code, str(caught.value)
    for word in words:
        assert word in str(caught.value)


def edited(folder, tmp_path, change=None, **settings):
    """A copy of an adapter with other tensors or settings."""
    copy = tmp_path / "edited"
    copy.mkdir()
    config = json.loads((folder / "adapter_config.json").read_text()) | settings
    (copy / "adapter_config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "adapter_model.safetensors")
    if change is not None:
        change(tensors)
    save_file(tensors, copy / "adapter_model.safetensors")
    return copy


def logits(network):
    with torch.no_grad():
        return network.logits(IDS)


def told(capsys, *words, code=0):
    """What a command printed; asserts how it ended."""
    assert main([str(word) for word in words]) == code
    return capsys.readouterr()


def by_hand(base, folder, factor=1.0):
    """The base's weights with factor * alpha / rank * B A added, in float64."""
    network = tiny(vocab_size=base[1].spec.vocab_size)
    tensors = load_file(folder / "adapter_model.safetensors")
    block = network.backbone.blocks[0]
    rows = network.spec.num_heads * network.spec.head_dim
    kv = network.spec.num_kv_heads * network.spec.head_dim
    places = {
        "self_attn.q_proj": block.attention.qkv.weight[:rows],
        "self_attn.v_proj": block.attention.qkv.weight[rows + kv :],
        "mlp.down_proj": block.feedforward.down.weight,
    }
    with torch.no_grad():
        for name, weight in places.items():
            stem = f"base_model.model.model.layers.0.{name}.lora_"
            a, b = tensors[f"{stem}A.weight"], tensors[f"{stem}B.weight"]
            weight += (factor * 6.0 / 3 * b.double() @ a.double()).float()
    return network.eval()


@pytest.mark.covers("MOD-38: merge", "INF-11: attaching adapters at inference")
def test_a_model_is_loaded_with_adapters_each_by_its_factor(base, folders):
    one, two = folders
    network, _ = load(base[0], "cpu", adapters=[str(one)])
    assert (logits(network) - logits(base[1])).abs().max() > 0.1
    torch.testing.assert_close(
        logits(network), logits(by_hand(base, one)), rtol=1e-5, atol=1e-5
    )
    network, _ = load(base[0], "cpu", adapters=[f"{one}=-0.5"])
    torch.testing.assert_close(
        logits(network), logits(by_hand(base, one, -0.5)), rtol=1e-5, atol=1e-5
    )
    both, _ = load(base[0], "cpu", adapters=[str(one), f"{two}=2"])
    after, _ = load(base[0], "cpu", adapters=[f"{two}=2", str(one)])
    torch.testing.assert_close(logits(both), logits(after), rtol=1e-5, atol=1e-5)
    assert (logits(both) - logits(network)).abs().max() > 0.1


@pytest.mark.covers("MOD-38: merge")
def test_a_merged_run_computes_the_same_and_gives_the_base_back(
    base, folders, tmp_path, capsys
):
    merged, apart = tmp_path / "merged", tmp_path / "apart"
    command = ("adapters", "merge", base[0], merged, "--adapter", f"{folders[0]}=0.5")
    printed = told(capsys, *command).out
    assert "3 tensors changed by" in printed and "float32" in printed
    network, _ = load(merged, "cpu")
    wanted, _ = load(base[0], "cpu", adapters=[f"{folders[0]}=0.5"])
    assert torch.equal(logits(network), logits(wanted))
    told(capsys, "adapters", "unmerge", merged, apart, "--adapter", f"{folders[0]}=0.5")
    back, _ = load(apart, "cpu")
    torch.testing.assert_close(logits(back), logits(base[1]), rtol=1e-5, atol=1e-5)
    said = told(capsys, *command, code=2).err
    assert "exists" in said, "nothing is overwritten"


def test_generate_evaluate_and_export_take_an_adapter(base, folders, tmp_path, capsys):
    def text(*words):
        command = ("generate", base[0], "--prompt", "the dog", "--temperature", "0")
        return told(capsys, *command, "--max-new-tokens", "12", *words).out

    plain, other = text(), text("--adapter", folders[0])
    assert plain != other and text("--adapter", f"{folders[0]}=0") == plain

    exported = tmp_path / "exported"
    told(capsys, "export", base[0], exported, "--adapter", folders[0])
    network, _ = load(exported, "cpu")
    wanted, _ = load(base[0], "cpu", adapters=[str(folders[0])])
    torch.testing.assert_close(logits(network), logits(wanted))

    (tmp_path / "text.txt").write_text("the quick brown fox does not mind the dog")
    command = ("evaluate", base[0], "--data", tmp_path / "text.txt", "--json")
    losses = [
        json.loads(told(capsys, *command, *more).out)["loss"]
        for more in ((), ("--adapter", folders[0]), ("--adapter", f"{folders[0]}=0"))
    ]
    assert losses[0] == losses[2] != losses[1]


def test_adapters_are_listed_with_what_is_wrong_with_them(folders, tmp_path, capsys):
    edited(folders[0], tmp_path, peft_type="PROMPT_TUNING")
    found = json.loads(told(capsys, "adapters", "list", tmp_path, "--json").out)
    assert "PROMPT_TUNING" in found[0]["problem"]
    printed = told(capsys, "adapters", "list", folders[0].parent).out
    assert "lora" in printed and "the base" in printed and "one" in printed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "VERA"}, ("E002", "VERA")),
        ({"peft_type": 7}, ("E002", "7")),
        ({"init_lora_weights": "pissa"}, ("E002", "init_lora_weights", "pissa")),
        ({"fan_in_fan_out": True}, ("E002", "fan_in_fan_out")),
        ({"lora_bias": True}, ("E002", "lora_bias")),
        ({"r": 5}, ("E102", "rank 5")),
        ({"r": "3"}, ("E102", "'3'")),
        ({"lora_alpha": None}, ("E102", "lora_alpha")),
        ({"lora_alpha": float("inf")}, ("E102", "lora_alpha")),
        ({"alpha_pattern": {"(a+)+$": 3}}, ("E102", "(a+)+$")),
        ({"use_dora": True}, ("E102", "magnitude")),
    ],
)
def test_settings_that_are_not_computed_here_are_refused_by_name(
    base, folders, tmp_path, settings, words
):
    folder = edited(folders[0], tmp_path, **settings)
    with refused(*words):
        read_adapter(folder, base[1].spec)


def test_tensors_that_do_not_fit_the_model_are_refused_by_name(base, folders, tmp_path):
    spec, q = base[1].spec, "base_model.model.model.layers.0.self_attn.q_proj.lora_A"

    def moved(tensors):
        tensors["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = (
            tensors.pop(f"{q}.weight")
        )

    def broken(tensors):
        tensors[f"{q}.weight"][0, 0] = torch.nan

    def wide(tensors):
        tensors[f"{q}.weight"] = torch.zeros(3, 7)

    for number, (change, words) in enumerate(
        (
            (moved, ("E102", "layers.9.self_attn.q_proj", "the base")),
            (broken, ("E303", "q_proj.lora_A", "not finite")),
            (wide, ("E102", "attention.q.weight")),
            (dict.clear, ("E105", "changes nothing")),
        )
    ):
        place = tmp_path / str(number)
        place.mkdir()
        with refused(*words):
            read_adapter(edited(folders[0], place, change), spec)
    with refused("E104", "no such folder"):
        read_adapter(tmp_path / "absent", spec)
    file = edited(folders[0], tmp_path) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    with refused("E303", "damaged"):
        read_adapter(file.parent, spec)
    file.unlink()
    (file.parent / "adapter_model.bin").write_bytes(b"pickle")
    with refused("E101", "pickle"):
        read_adapter(file.parent, spec)


def test_ranks_and_alphas_may_differ_by_module(base, folders, tmp_path):
    spec, pieces = base[1].spec, {}
    for number, leaf in enumerate(("attention.q", "attention.v", "feedforward.down")):
        made = adapter_for(spec, number, rank=2 + number // 2, alpha=3.0 + 5 * number)
        name = f"backbone.blocks.0.{leaf}.weight"
        pieces[name] = made.pieces[name]
    adapter = Adapter("made", "lora", pieces)
    back = read_adapter(write_adapter(adapter, spec, tmp_path / "own"), spec)
    for name, piece in pieces.items():
        assert (back.pieces[name].rank, back.pieces[name].alpha) == (
            piece.rank,
            piece.alpha,
        )
    # As PEFT reads patterns: the end of a path, or a regular expression of all of it.
    patterns = {"v_proj": 9, r".*\.0\.mlp\.down_proj": 4, "_proj": 1}
    folder = edited(folders[0], tmp_path, alpha_pattern=patterns)
    found = read_adapter(folder, spec).pieces
    alphas = {name.split(".")[-2]: piece.alpha for name, piece in found.items()}
    assert alphas == {"q": 6, "v": 9, "down": 4}


def test_a_tied_table_of_token_vectors_cannot_be_changed(base, tmp_path):
    spec = base[1].spec
    a, b = torch.ones(2, spec.hidden_size), torch.ones(spec.vocab_size, 2)
    pieces = {"objective.head.weight": Piece({"a": a, "b": b}, 2, 2)}
    folder = write_adapter(Adapter("head", "lora", pieces), spec, tmp_path / "a")
    assert read_adapter(folder, spec).pieces.keys() == pieces.keys()
    with refused("E102", "lm_head"):
        read_adapter(folder, replace(spec, tie_embeddings=True))


def test_a_model_without_a_family_keeps_its_adapters_under_its_own_names(tmp_path):
    spec = replace(
        tiny().spec, qk_norm="l2", moe=MoeSpec(4, 2, 40, layers=(1,), names=())
    )
    adapter = adapter_for(spec)
    experts = {
        f"backbone.blocks.1.feedforward.{leaf}": Piece(
            {"a": torch.randn(4, 2, spec.hidden_size), "b": torch.randn(4, 40, 2)}, 2, 3
        )
        for leaf in ("gate", "up")
    }
    adapter = replace(adapter, pieces={**adapter.pieces, **experts})
    again = read_adapter(write_adapter(adapter, spec, tmp_path / "own"), spec)
    assert again.pieces.keys() == adapter.pieces.keys()
    for name, piece in adapter.pieces.items():
        assert torch.equal(again.pieces[name].tensors["b"], piece.tensors["b"]), name
        assert again.pieces[name].alpha == piece.alpha
