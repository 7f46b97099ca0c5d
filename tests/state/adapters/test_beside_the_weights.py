"""Adapters beside the weights: the same logits as merged, and switched while in use."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest
import torch

from infer.networks import logical, tiny, write_run
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.adapters import adapters_of, switch
from lumina.infer.chat import ChatSession
from lumina.infer.load import filled_network, load
from lumina.infer.sampling import Sampling
from lumina.infer.text import Answers
from lumina.model.adapters.sites import sites
from lumina.model.adapters.table import chosen_method
from lumina.model.declared import declared, tensor_info
from lumina.model.spec import MoeSpec
from lumina.ops.low_bits.codec import found_codec
from lumina.state.adapter_base import content_of
from lumina.state.adapters.adapter import Adapter, Piece
from lumina.state.adapters.attached import attached, taken_apart
from lumina.state.adapters.merging import merged
from lumina.state.adapters.reading import read_adapter
from lumina.state.adapters.writing import write_adapter
from lumina.state.huggingface import export_folder
from lumina.state.weights import InMemory, Weights, open_weights
from state.adapters.test_adapter_folders import adapter_for, logits, told

CPU, GREEDY = torch.device("cpu"), Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the dog does not mind the quick brown fox"] * 4, 300)


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    """A base and two adapters for it, in folders."""
    place = tmp_path_factory.mktemp("model")
    network = tiny(vocab_size=tokenizer.vocab_size)
    export_folder(network, tokenizer, place / "base")
    for seed, name in enumerate(("one", "two")):
        write_adapter(adapter_for(network.spec, seed), network.spec, place / name)
    return place


def held(network):
    """The weights of a network."""
    return Weights(network.spec, InMemory(logical(network)), None, None, "made")


def on_network(weights):
    return logits(filled_network(weights, CPU, torch.float32).eval())


def with_all(spec, method, seed=0, rank=3):
    """An adapter of a method on query, down projection, experts and head."""
    generator, pieces = torch.Generator().manual_seed(seed), {}
    for site in sites(declared(spec).values()):
        if site.piece in ("q_proj", "down_proj", "up_proj"):
            leaves = chosen_method(method).leaves(site, rank, {})
            tensors = {
                leaf.name: torch.randn(leaf.shape, generator=generator) * 0.2 + 0.3
                for leaf in leaves
            }
            pieces[site.logical] = Piece(tensors, rank, 4.0)
    return Adapter(method, method, pieces)


@pytest.mark.parametrize(
    "method",
    ["lora", "rslora", "pissa", "adalora", "dora", "ia3", "loha", "lokr"],
)
@pytest.mark.parametrize("routed", [False, True], ids=["dense", "routed"])
@pytest.mark.covers("INF-11: attaching adapters at inference", "MOD-38: load")
def test_beside_the_weights_an_adapter_does_what_it_does_merged(method, routed):
    moe = MoeSpec(4, 2, 24, layers=(1,)) if routed else None
    biased = method == "ia3"
    weights = held(tiny(vocab_size=256, num_layers=2, moe=moe, attention_bias=biased))
    adapter = with_all(weights.spec, method)
    factor = 1.0 if method in ("ia3", "dora") else -0.7
    beside = attached(weights, [(adapter, factor)])
    once = on_network(merged(weights, [(adapter, factor)]))
    assert (once - on_network(weights)).abs().max() > 0.1
    torch.testing.assert_close(on_network(beside), once, rtol=1e-4, atol=1e-4)
    plain, apart = taken_apart(beside)
    assert plain.spec == weights.spec and apart[0][1] == factor
    assert set(plain.source.names()) == set(weights.source.names())
    again = on_network(merged(plain, apart))
    torch.testing.assert_close(again, once, rtol=1e-4, atol=1e-4)
    if method == "adalora":  # beside the weights it is the LoRA that it amounts to
        return
    for name, piece in apart[0][0].pieces.items():
        for leaf, tensor in piece.tensors.items():
            assert torch.equal(tensor, adapter.pieces[name].tensors[leaf]), (name, leaf)
        assert piece.alpha == 4.0


def test_on_a_base_of_four_bits_an_adapter_stays_beside_it(model):
    few, _ = load(model / "base", "cpu", precision="int4")
    beside, _ = load(
        model / "base", "cpu", precision="int4", adapters=[str(model / "one")]
    )
    layer = beside.backbone.blocks[0].feedforward.down
    assert adapters_of(beside) == {"one": 1.0} and layer.stored is not None
    same = few.backbone.blocks[0].feedforward.down.dense()
    assert torch.equal(layer.dense(), same), "the base's few bits are as they were"
    assert (logits(few) - logits(beside)).abs().max() > 0.1
    switch(beside, {})
    assert torch.equal(logits(few), logits(beside))


def test_several_adapters_add_up_and_are_switched_at_any_token(model, tokenizer):
    both = [str(model / "one"), f"{model / 'two'}=0.5"]
    network, _ = load(model / "base", "cpu", adapters=both, beside=True)
    wanted, _ = load(model / "base", "cpu", adapters=both)
    torch.testing.assert_close(logits(network), logits(wanted), rtol=1e-4, atol=1e-4)
    before = switch(network, {"two": 1.0})
    assert before == {"one": 1.0, "two": 0.5}
    alone, _ = load(model / "base", "cpu", adapters=[str(model / "two")])
    torch.testing.assert_close(logits(network), logits(alone), rtol=1e-4, atol=1e-4)
    with pytest.raises(LuminaError, match="three"):
        switch(network, {"three": 1.0})

    def answer(at=None):
        switch(network, {"one": 1.0})
        prompt = tokenizer.prompt("the dog")
        answers = Answers(network, tokenizer, [prompt], GREEDY, max_new_tokens=16)
        for number, _ in enumerate(answers):
            if number == at:
                switch(network, {"two": 1.0})
        return answers.completions[0].ids

    whole, turned = answer(), answer(at=2)
    assert whole[:3] == turned[:3] and whole != turned


def test_a_conversation_goes_on_with_another_adapter(model, tokenizer):
    adapters = [str(model / "one"), str(model / "two")]
    network, _ = load(model / "base", "cpu", adapters=adapters, beside=True)
    session = ChatSession(network, tokenizer, sampling=GREEDY, max_new_tokens=8)
    list(session.say("the dog"))
    session.switch({"two": 1.0})
    again = "".join(session.say("the fox"))

    def fresh(name):
        other, _ = load(model / "base", "cpu", adapters=[str(model / name)])
        new = ChatSession(other, tokenizer, sampling=GREEDY, max_new_tokens=8)
        new.messages = [dict(one) for one in session.messages[:2]]
        new._contents = list(session._contents[:2])
        return "".join(new.say("the fox"))

    assert again == fresh("two") != fresh("one")


def test_chat_lists_and_switches_adapters_by_name(model, capsys, monkeypatch):
    lines = "/adapter\n/adapter two=0.5\n/adapter none\n/adapter three\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    command = ("chat", model / "base", "--adapter", model / "one", "--adapter")
    said = told(capsys, *command, model / "two", code=2).err
    assert "(acting: one, two)" in said
    assert "(acting: 0.5 x two; not acting: one)" in said
    assert "(acting: none; not acting: one, two)" in said
    assert "no adapter three" in said


def test_what_has_no_place_beside_the_weights_is_refused_by_name(model):
    weights = held(tiny(vocab_size=256))
    table = "backbone.embedding.weight"
    piece = Piece({"a": torch.ones(2, 32), "b": torch.ones(256, 2)}, 2, 2.0)
    whole = {"objective.head.weight": torch.ones(256, 32)}
    cases = (
        (Adapter("x", "lora", {table: piece}), table),
        (Adapter("x", "lora", {}, replaced=whole), "objective.head.weight"),
    )
    for adapter, word in cases:
        with pytest.raises(LuminaError, match="can") as caught:
            attached(weights, [(adapter, 1.0)])
        assert word in str(caught.value) and "lumina adapters merge" in str(
            caught.value
        )


def test_a_run_with_adapters_of_its_own_is_converted_merged_and_exported(
    model, tokenizer, tmp_path, capsys
):
    base = open_weights(model / "base")
    adapter = replace(adapter_for(base.spec, 3), name="default")
    beside = attached(base, [(adapter, 1.0)])
    network = filled_network(beside, CPU, torch.float32).eval()
    run = write_run(tmp_path / "run", {1: network}, tokenizer)
    told(capsys, "adapters", "convert", run, tmp_path / "peft", "--base", "its base")
    back = read_adapter(tmp_path / "peft", base.spec)
    assert back.base == "its base"
    for name, piece in adapter.pieces.items():
        assert torch.equal(back.pieces[name].tensors["a"], piece.tensors["a"])
    told(capsys, "adapters", "merge", run, tmp_path / "merged")
    told(capsys, "export", run, tmp_path / "exported")
    for folder in ("merged", "exported"):
        got, _ = load(tmp_path / folder, "cpu")
        assert not got.spec.adapters
        torch.testing.assert_close(logits(got), logits(network), rtol=1e-4, atol=1e-4)
    other, _ = load(model / "base", "cpu", adapters=[str(run)])
    torch.testing.assert_close(logits(other), logits(network), rtol=1e-4, atol=1e-4)
    again = tmp_path / "again"
    told(
        capsys, "adapters", "convert", tmp_path / "peft", again, "--model",
        model / "base",
    )  # fmt: skip
    one, two = (
        (folder / "adapter_model.safetensors").read_bytes()
        for folder in (tmp_path / "peft", again)
    )
    assert one == two


def test_ranks_that_adalora_dropped_are_not_written(tmp_path):
    weights = held(tiny(vocab_size=256))
    adapter = with_all(weights.spec, "adalora", rank=4)
    for number, piece in enumerate(adapter.pieces.values()):
        piece.tensors["e"][number % 3 :] = 0.0
    wanted = on_network(merged(weights, [(adapter, 1.0)]))
    folder = write_adapter(adapter, weights.spec, tmp_path / "adalora")
    back = read_adapter(folder, weights.spec)
    shapes = [piece.tensors["a"].shape[0] for piece in back.pieces.values()]
    assert back.method == "adalora" and set(shapes) == {0, 1, 2}
    for one in (merged, attached):
        got = on_network(one(weights, [(back, 1.0)]))
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_pissa_is_written_as_lora_of_twice_the_rank(tmp_path):
    weights = held(tiny(vocab_size=256))
    adapter = with_all(weights.spec, "pissa")
    folder = write_adapter(adapter, weights.spec, tmp_path / "pissa")
    back = read_adapter(folder, weights.spec)
    assert back.method == "lora" and {p.rank for p in back.pieces.values()} == {6}
    torch.testing.assert_close(
        on_network(merged(weights, [(back, 1.0)])),
        on_network(merged(weights, [(adapter, 1.0)])),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.covers("MOD-38: merge")
def test_merging_into_few_bits_says_what_it_loses(model, tmp_path, capsys):
    def merge(folder, *words):
        command = ("adapters", "merge", model / "base", tmp_path / folder, *words)
        return told(capsys, *command, "--adapter", f"{model / 'one'}=0.05").out

    assert "nf4" not in merge("wide")
    said = merge("few", "--requantize", "nf4").splitlines()
    lost = float(next(x for x in said if "to nf4 lost" in x).split("%")[0].split()[-1])
    wide, few = (open_weights(tmp_path / name) for name in ("wide", "few"))
    base, codec = open_weights(model / "base"), found_codec("nf4")
    errors, sizes = 0.0, 0.0
    for name in base.source.names():
        after = wide.source.tensor(name)
        role = tensor_info(base.spec)[name].role
        rounded = codec.pack(after).unpacked() if role == "matrix" else after
        torch.testing.assert_close(few.source.tensor(name), rounded)
        change = after - base.source.tensor(name)
        if change.abs().max() > 0:
            errors += float((rounded - after).square().sum())
            sizes += float(change.square().sum())
    assert lost == pytest.approx(100 * (errors / sizes) ** 0.5, rel=0.01) and lost > 50


def test_an_adapter_of_other_weights_is_told(model, tmp_path, capsys):
    spec = open_weights(model / "base").spec
    own = content_of(model / "base")
    for digest, words in ((own, ""), ("0" * 64, "trained on other weights")):
        folder = tmp_path / (digest[:3] or "own")
        adapter = replace(adapter_for(spec), base_hash=digest, base="the farm")
        write_adapter(adapter, spec, folder)
        command = ("generate", model / "base", "--adapter", folder, "--prompt", "the")
        said = told(capsys, *command, "--max-new-tokens", "1").err
        assert words in said and ("the farm" in said) == bool(words)
