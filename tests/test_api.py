"""What `import lumina` offers, used as a notebook uses it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

import lumina
from lumina.model.interface import IGNORE, Batch
from lumina.model.network import build_network
from lumina.model.spec import HrmSpec, ModSpec, MoeSpec, MorSpec, TaskSpec
from lumina.state.huggingface import export_folder
from networks import tiny_spec

REASONER = {"h_layers": 1, "l_layers": 1, "halt_max_steps": 3}
KINDS = {
    "dense": {},
    "experts": {"moe": MoeSpec(4, top_k=2, intermediate_size=24, layers=(0, 1))},
    "depths": {"mod": ModSpec(layers=(0, 1), capacity=0.5, ladder=(0.5,))},
    "recursions": {"mor": MorSpec(recursions=2)},
    "reasoner": {"hrm": HrmSpec(mode="language_model", **REASONER)},
}


def ids(rows: int = 2, length: int = 12, vocabulary: int = 100) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(2, vocabulary, (rows, length), generator=generator)


def next_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE
    )


def test_dir_lists_the_public_names_and_needs_no_torch():
    program = (
        "import sys, lumina\n"
        "missing = set(lumina.__all__) - set(dir(lumina))\n"
        "assert not missing, missing\n"
        "assert {'Config', 'Trainer', 'build_model', 'load'} <= set(dir(lumina))\n"
        "lumina.Config.load\n"
        "assert 'torch' not in sys.modules\n"
        "for name in lumina.__all__: assert callable(getattr(lumina, name)), name\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_called_with_token_ids_and_labels(kind):
    network = build_network(tiny_spec(**KINDS[kind]), seed=3)
    names = list(network.state_dict())
    network.eval()
    tokens = ids()
    labels = tokens.clone()
    labels[0, :5] = IGNORE
    with torch.no_grad():
        alone = network(tokens)
        scored = network(input_ids=tokens, labels=labels)
    assert alone.loss is None
    assert alone.logits.dtype == torch.float32
    assert alone.logits.shape == (2, 12, network.spec.vocab_size)
    assert torch.equal(scored.logits, alone.logits)
    expected = next_token_loss(alone.logits, labels)
    torch.testing.assert_close(scored.loss, expected, rtol=0, atol=1e-5)
    network.train()
    network(input_ids=tokens, labels=labels).loss.backward()
    assert network.backbone.embedding.weight.grad.abs().sum() > 0
    assert list(network.state_dict()) == names
    losses, _ = network(Batch.from_rows(tokens, tokens))  # how it is trained
    assert losses.weight_sum == tokens.numel()


def test_what_is_not_a_batch_of_texts_is_refused_with_what_to_give():
    network = build_network(tiny_spec(), seed=3)
    for arguments, said in (
        ({"input_ids": ids()[0]}, "[rows, tokens]"),
        ({}, "[rows, tokens]"),
        ({"input_ids": ids(), "labels": ids(length=11)}, "[2, 11]"),
        ({"input_ids": ids(), "task_id": "code"}, "one head"),
    ):
        with pytest.raises(lumina.LuminaError, match="E005") as caught:
            network(**arguments)
        assert said in str(caught.value)


def test_a_model_of_several_tasks_is_asked_for_one():
    network = build_network(tiny_spec(tasks=TaskSpec(("chat", "code"))), seed=3).eval()
    tokens = ids()
    with torch.no_grad():
        code = network(input_ids=tokens, labels=tokens, task_id="code")
        assert torch.equal(code.logits, network.logits(tokens, task_id=1))
    torch.testing.assert_close(
        code.loss, next_token_loss(code.logits, tokens), rtol=0, atol=1e-5
    )
    with pytest.raises(lumina.LuminaError, match="chat, code"):
        network(tokens)


def test_a_model_of_puzzles_is_given_solutions_as_labels():
    spec = tiny_spec(vocab_size=11, hrm=HrmSpec(mode="puzzle", **REASONER))
    network = build_network(spec, seed=3).eval()
    puzzles, solutions = ids(vocabulary=11), ids(vocabulary=11).flip(1)
    with torch.no_grad():
        scored = network(input_ids=puzzles, labels=solutions)
        losses, _ = network(Batch.from_rows(puzzles, solutions))
    assert torch.equal(scored.logits, network.logits(puzzles))
    torch.testing.assert_close(scored.loss, losses.loss_sum / losses.weight_sum)


def test_the_loss_is_that_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = lumina.build_model(
        lumina.Config(
            vocab_size=100,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            intermediate_size=64,
            seq_length=64,
            init_std=0.2,
        )
    ).eval()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        export_folder(model, None, tmp_path / "out")
    )
    tokens = ids()
    labels = tokens.clone()
    labels[1, 6:] = IGNORE
    with torch.no_grad():
        ours = model(input_ids=tokens, labels=labels)
        expected = theirs(input_ids=tokens, labels=labels)
    torch.testing.assert_close(ours.loss, expected.loss, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.logits, expected.logits, rtol=1e-4, atol=1e-4)
