"""A named expert: trained on a frozen base, kept, attached, detached, leant on."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from lumina.cli.main import main
from lumina.infer.load import load
from lumina.state.reader import latest_good, open_checkpoint

TINY = [
    "--device", "cpu", "--precision", "fp32", "--global-batch-size", "4",
    "--batch-size", "4", "--learning-rate", "3e-3", "--eval-batches", "1",
]  # fmt: skip
SHAPE = [
    "--preset", "debug", "--hidden-size", "32", "--num-heads", "2", "--num-kv-heads",
    "1", "--intermediate-size", "48", "--num-layers", "3", "--seq-length", "32",
    "--tokenizer-vocab-size", "300", "--use-moe", "--num-experts", "4",
    "--moe-first-dense", "1", "--moe-shared-experts", "1",
    "--moe-bias-update-rate", "0.001",
]  # fmt: skip
GOAL = "answer in short"


def lumina(*words, code=0):
    assert main([str(word) for word in words]) == code


@pytest.fixture(scope="module")
def made(tiny_corpus, tmp_path_factory, lumina_cache):
    """A base, and an expert trained on it: the folder of both and the registry."""
    folder = tmp_path_factory.mktemp("experts")
    base, registry = folder / "base", folder / "registry"
    data = ("--train-data", tiny_corpus)
    lumina("train", *TINY, *SHAPE, *data, "--run-dir", base, "--steps", "4")
    where = ("--expert-registry", registry)
    lumina("experts", "create", "parent", *where)
    lumina("experts", "create", "farm", "--description", "hens", "--category", "tales",
           "--parent", "parent", *where)  # fmt: skip
    lumina(
        "train", *TINY, *data, "--init-from", base, "--run-dir", folder / "trained",
        "--steps", "6", "--expert-id", "farm", *where, "--default-goal", GOAL,
        "--weight-decay", "0.1",
    )  # fmt: skip
    return folder


def entry(made, name="farm"):
    listed = json.loads((made / "registry" / "registry.json").read_text())["experts"]
    return next(e for e in listed if e["name"] == name)


def tensors(run):
    reader = open_checkpoint(latest_good(run))
    return {name: reader.tensor(name) for name in reader.names()}


@pytest.mark.covers("MOD-26: expert-only training with --expert-id NAME (base frozen)")
def test_only_the_new_expert_trains(made):
    """Every number of the base is what it was, to the bit."""
    before, after = tensors(made / "base"), tensors(made / "trained")
    assert before.keys() == after.keys()
    moved = 0
    for name, tensor in after.items():
        if name.endswith(".load"):
            continue
        if tensor.shape == before[name].shape:
            assert torch.equal(tensor, before[name]), name
        else:
            assert torch.equal(tensor[:4], before[name]), name
            moved += not torch.equal(tensor[4], before[name].mean(0))
    assert moved >= 2 * 4
    reader = open_checkpoint(latest_good(made / "trained"))
    assert set(reader.optimizer_names("exp_avg")) == {
        f"backbone.blocks.{layer}.feedforward.{leaf}"
        for layer in (1, 2)
        for leaf in ("router.weight", "gate", "up", "down")
    }
    moments = reader.optimizer_tensor("exp_avg", "backbone.blocks.1.feedforward.up")
    assert moments[4].any() and not moments[:4].any()


@pytest.mark.parametrize(("named", "code"), [("4", 0), ("3", 2)])
def test_the_number_of_experts_named_is_the_bases(
    made, tiny_corpus, tmp_path, named, code
):
    lumina(
        "train", *TINY, "--train-data", tiny_corpus, "--init-from", made / "base",
        "--expert-registry", tmp_path, "--expert-id", "barn", "--num-experts", named,
        "--run-dir", tmp_path / "run", "--dry-run", code=code,
    )  # fmt: skip


@pytest.mark.covers(
    "MOD-26: saved as a standalone safetensors expert",
    "MOD-26: registry JSON",
    "MOD-25: list per expert",
)
def test_the_file_and_the_registry(made, capsys):
    found, parent = entry(made), entry(made, "parent")
    assert (found["description"], found["category"]) == ("hens", "tales")
    assert found["parent_id"] == parent["id"] and parent["child_ids"] == [found["id"]]
    assert found["goals"] == [GOAL] and found["created"] <= found["updated"]
    assert (found["active"], found["frozen"]) == (False, False)
    assert found["training"]["steps"] == 6 and found["training"]["final_loss"] > 0
    saved = load_file(found["checkpoint"])
    own = load_file(made / "trained" / "expert.safetensors")
    trained = tensors(made / "trained")
    assert saved.keys() == own.keys() and len(saved) == 10
    for name, tensor in saved.items():
        layer, _, leaf = name.removeprefix("blocks.").partition(".")
        full = trained[f"backbone.blocks.{layer}.feedforward.{leaf}"]
        assert torch.equal(tensor, full[4])
        assert torch.equal(tensor, own[name])
    where = ("--expert-registry", made / "registry")
    lumina("experts", "list", *where)
    assert "tales" in capsys.readouterr().out
    lumina("experts", "show", "farm", "--json", *where)
    assert json.loads(capsys.readouterr().out)["id"] == found["id"]


@pytest.mark.covers(
    "MOD-27: loading",
    "MOD-27: attaching and detaching",
    "INF-11: attaching experts at inference",
)
def test_attached_is_the_trained_model_and_detached_is_the_base(made, tmp_path):
    where = ("--expert-registry", made / "registry")
    lumina("experts", "attach", "farm", made / "base", tmp_path / "with", *where)
    assert entry(made)["active"]
    lumina("experts", "detach", "farm", tmp_path / "with", tmp_path / "less", *where)
    assert not entry(made)["active"]
    ids = torch.randint(0, 290, (2, 20), generator=torch.Generator().manual_seed(1))
    logits = {}
    for name in ("base", "trained", "with", "less"):
        folder = (made if name in ("base", "trained") else tmp_path) / name
        network, _ = load(folder, "cpu")
        for block in network.backbone.blocks[1:]:
            block.feedforward.routing_bias.zero_()
        with torch.no_grad():
            logits[name] = network.logits(ids)
    assert torch.equal(logits["less"], logits["base"])
    assert torch.equal(logits["with"], logits["trained"])
    assert not torch.allclose(logits["with"], logits["base"])
    lumina("experts", "detach", "farm", made / "trained", tmp_path / "also", *where)
    network, _ = load(tmp_path / "also", "cpu")
    with torch.no_grad():
        assert torch.equal(network.logits(ids), logits["base"])


@pytest.mark.covers(
    "MOD-25: bias toward experts linked to active goals",
    "MOD-25: goal text store, link expert to goal",
)
def test_goals_bias_routing(made, tmp_path, capsys):
    from lumina.batch import Batch
    from lumina.infer.expert_goals import lean_towards
    from lumina.state.expert_registry import Registry

    where = ("--expert-registry", made / "registry")
    lumina("experts", "attach", "farm", made / "base", tmp_path / "with", *where)
    lumina("experts", "goal", "farm", "tell of hens", *where)
    lumina("experts", "goal", *where)
    assert "tell of hens: farm" in capsys.readouterr().out
    network, _ = load(tmp_path / "with", "cpu")
    ids = torch.randint(0, 290, (4, 32), generator=torch.Generator().manual_seed(1))

    def share():
        with torch.no_grad():
            counts = network(Batch.from_rows(ids))[1]["moe.counts"]
        return (counts[:, 4] / counts.sum(1)).mean().item()

    before = share()
    registry = Registry(made / "registry")
    assert lean_towards(network, ["tell of hens"], registry) == ["farm"]
    assert share() > before + 0.1
    # The run that trained it under its default goal leans towards it by itself.
    trained, _ = load(made / "trained", "cpu")
    assert trained.backbone.blocks[1].feedforward.routing_bias.tolist() == [0] * 4 + [2]
    lumina(
        "generate", tmp_path / "with", "--prompt", "The", "--goal", "tell of hens",
        "--max-new-tokens", "3", "--device", "cpu", *where,
    )  # fmt: skip
    assert "leans towards farm" in capsys.readouterr().err
    lumina("generate", made / "base", "--prompt", "The", "--goal", "tell of hens",
           "--device", "cpu", *where, code=2)  # fmt: skip
    lumina("experts", "goal", "farm", "tell of hens", "--off", *where)
    assert entry(made)["goals"] == [GOAL]


@pytest.mark.covers("MOD-27: freezing")
def test_a_frozen_expert_does_not_train_and_another_goes_on(
    made, tmp_path, tiny_corpus
):
    where = ("--expert-registry", made / "registry")
    again = (
        "train", *TINY, "--train-data", tiny_corpus, "--init-from", made / "base",
        "--steps", "1", "--expert-id", "farm", *where, "--learning-rate", "1e-9",
    )  # fmt: skip
    lumina("experts", "freeze", "farm", *where)
    assert entry(made)["frozen"]
    lumina(*again, "--run-dir", tmp_path / "no", code=2)
    lumina("experts", "freeze", "farm", "--off", *where)
    kept = load_file(entry(made)["checkpoint"])
    lumina(*again, "--run-dir", tmp_path / "on")
    for name, tensor in load_file(tmp_path / "on" / "expert.safetensors").items():
        torch.testing.assert_close(tensor, kept[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "words",
    [
        ("show", "nobody"),
        ("show",),
        ("create", "../up"),
        ("create", "farm"),
        ("attach", "parent", "base", "new"),
        ("list", "--off"),
        ("detach", "farm", "{made}/base", "{tmp}/new"),
    ],
)
def test_refusals(made, tmp_path, words, capsys):
    words = [word.format(made=made, tmp=tmp_path) for word in words]
    code = main(["experts", *words, "--expert-registry", str(made / "registry")])
    assert code == 2, capsys.readouterr()


def test_an_expert_needs_a_routed_base(tiny_corpus, tmp_path):
    common = (*TINY, "--train-data", tiny_corpus, "--steps", "1")
    lumina("train", *common, "--expert-id", "x", "--run-dir", tmp_path / "a", code=2)
