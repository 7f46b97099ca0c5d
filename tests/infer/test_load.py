from __future__ import annotations

import shutil

import pytest
import torch

import lumina
from infer.networks import MOE, tiny, write_run
from lumina.errors import LuminaError
from lumina.infer.load import load
from lumina.state.huggingface import export_folder

IDS = torch.tensor([[1, 5, 9, 2]])


def same(network, other) -> bool:
    with torch.inference_mode():
        return torch.equal(network.logits(IDS), other.eval().logits(IDS))


@pytest.fixture(scope="module")
def networks(tokenizer):
    return {step: tiny(tokenizer.vocab_size, step, moe=MOE) for step in (1, 2, 3)}


@pytest.fixture
def run(tmp_path, networks, tokenizer):
    return write_run(tmp_path / "run", networks, tokenizer, best=2)


def code(path, **options) -> str:
    with pytest.raises(LuminaError) as caught:
        load(path, **options)
    return caught.value.code


def test_a_run_gives_its_newest_checkpoint_and_tokenizer(run, networks, tokenizer):
    network, found = lumina.load(run)
    assert same(network, networks[3]) and not network.training
    assert found.fingerprint == tokenizer.fingerprint
    assert next(network.parameters()).dtype == torch.float32


def test_the_best_checkpoint_on_request(run, networks):
    assert same(load(run, which="best")[0], networks[2])


def test_one_checkpoint_by_its_folder(run, networks):
    assert same(load(run / "checkpoints" / "step-00000001")[0], networks[1])


def test_a_copied_run_loads(run, networks, tmp_path):
    shutil.copytree(run, tmp_path / "elsewhere")
    shutil.rmtree(run)
    assert same(load(tmp_path / "elsewhere")[0], networks[3])


def test_averaged_weights_on_request(tmp_path, networks, tokenizer):
    average = tiny(tokenizer.vocab_size, 9, moe=MOE)
    run = write_run(tmp_path / "run", {1: networks[1]}, tokenizer, ema=average)
    assert same(load(run)[0], networks[1])
    assert same(load(run, ema=True)[0], average)


def test_an_exported_folder_gives_the_same_network(tmp_path, tokenizer):
    original = tiny(tokenizer.vocab_size, num_kv_heads=2)
    network, found = load(export_folder(original, tokenizer, tmp_path / "exported"))
    assert same(network, original)
    assert found.encode("the dog") == tokenizer.encode("the dog")


def test_a_damaged_newest_checkpoint_is_passed_over_and_said(run, networks):
    damage(run / "checkpoints" / "step-00000003")
    events = []
    network, _ = load(run, on_event=lambda *event, **data: events.append(event))
    assert same(network, networks[2])
    assert events[0][0] == "checkpoint_refused" and "step-00000003" in events[0][3]


def damage(checkpoint) -> None:
    [weights] = checkpoint.glob("model*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def test_a_half_precision_network_keeps_its_buffers(run):
    network, _ = load(run, dtype=torch.bfloat16)
    assert network.backbone.compute_dtype == torch.bfloat16
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in network.buffers()} == {torch.float32}
    assert network.logits(IDS).isfinite().all()


def test_what_cannot_be_loaded_is_refused_by_code(run, tmp_path, networks, tokenizer):
    assert code(tmp_path / "nothing") == "E104"
    (tmp_path / "empty").mkdir()
    assert code(tmp_path / "empty") == "E101"
    (tmp_path / "empty" / "adapter_config.json").write_text("{}")
    with pytest.raises(LuminaError, match="is an adapter, without the model") as alone:
        lumina.load(tmp_path / "empty")
    assert "--adapter" in alone.value.hint
    file = tmp_path / "file"
    file.write_text("x")
    assert code(file) == "E101"
    begun = tmp_path / "begun"
    (begun / "checkpoints").mkdir(parents=True)
    assert code(begun) == "E304"
    once = write_run(tmp_path / "once", {1: networks[1]}, tokenizer)
    assert code(once, which="best") == "E304"
    assert code(once, ema=True) == "E002"
    shutil.rmtree(once / "tokenizer")
    assert code(once) == "E104"
    assert code(run, device="tpu?") == "E005"
    if not torch.cuda.is_available():
        assert code(run, device="cuda") == "E003"
    for checkpoint in (run / "checkpoints").glob("step-*"):
        damage(checkpoint)
    assert code(run) == "E303"
    assert code(run / "checkpoints" / "step-00000001") == "E303"
