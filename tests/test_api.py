"""What `import lumina` offers, used as a notebook uses it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

import lumina
from infer.networks import tiny, write_run
from lumina.batch import IGNORE, Batch
from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
from lumina.infer.generate import generate
from lumina.model.build import build_network
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
        "assert {'Config', 'chat', 'evaluate', 'generate'} <= set(dir(lumina))\n"
        "lumina.Config.load\n"
        "assert 'torch' not in sys.modules\n"
        "import lumina.infer.evaluate, lumina.infer.chat, lumina.infer.generate\n"
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
        ({"input_ids": ids()[:, :0]}, "no token"),
        ({"input_ids": ids() + 1000}, "the model knows the tokens 0 to"),
        ({"input_ids": ids() - 1000}, "input_ids hold -9"),
        ({"input_ids": ids(), "labels": ids() + 1000}, "labels hold 1"),
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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    tokenizer = Tokenizer.train(["the quick brown fox and the lazy dog"] * 4, 320)
    network = tiny(tokenizer.vocab_size, num_kv_heads=2, seq_length=256)
    folder = tmp_path_factory.mktemp("api") / "run"
    return write_run(folder, {7: network}, tokenizer)


def from_command(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main([*words, "--max-new-tokens", "9", "--seed", "3"]) == 0
    return capsys.readouterr().out


def test_generate_continues_as_the_command_does(run, capsys):
    options = {"max_new_tokens": 9, "seed": 3}
    words = ["--prompt", "the quick", "a dog", "--json"]
    out = from_command(capsys, "generate", str(run), *words)
    expected = [json.loads(line)["text"] for line in out.splitlines()]
    assert expected[0]
    loaded = lumina.load(run)
    for model in (run, str(run), loaded, loaded[0]):
        assert lumina.generate(model, "the quick", **options) == expected[0]
        both = lumina.generate(model, ["the quick", "a dog"], **options)
        assert both == expected
    one_by_one = lumina.generate(run, ["the quick", "a dog"], batch_size=1, **options)
    assert one_by_one == expected
    stop = expected[0][2:4]
    cut = lumina.generate(run, "the quick", stop=stop, **options)
    assert cut == expected[0][: expected[0].index(stop)]


def test_chat_answers_as_the_command_does(run, capsys):
    options = {"max_new_tokens": 9, "seed": 3}
    said = ["--message", "the quick", "--system-prompt", "a fox"]
    expected = from_command(capsys, "chat", str(run), *said).removesuffix("\n")
    messages = [
        {"role": "system", "content": "a fox"},
        {"role": "user", "content": "the quick"},
    ]
    assert lumina.chat(lumina.load(run), messages, **options) == expected
    assert lumina.chat(run, messages, **options) == expected
    alone = lumina.chat(run, "the quick", **options)
    assert alone == lumina.chat(run, messages[1:], **options) != expected
    # What was said before is read before the last turn.
    history = [messages[1], {"role": "assistant", "content": "the lazy"}, messages[1]]
    network, tokenizer = lumina.load(run)
    prompt = tokenizer.chat_prompt(history)
    ids = [*generate(network, prompt, stop_ids=tokenizer.stop_ids, **options)]
    told = tokenizer.decode_after(prompt, ids, cut_off=len(ids) == 9)
    assert lumina.chat(run, history, **options) == told != alone


@pytest.mark.parametrize(
    ("prompt", "code", "said"),
    [
        (b"the quick", "E005", "bytes is given where a text is expected"),
        (5, "E005", "int is given"),
        (None, "E005", "NoneType is given"),
        (["the quick", 5], "E005", "int is given"),
        ("caf\udce9", "E103", "half a surrogate pair"),
    ],
)
def test_what_is_no_prompt_is_refused(run, prompt, code, said):
    with pytest.raises(lumina.LuminaError) as caught:
        lumina.generate(run, prompt)
    assert caught.value.code == code and said in caught.value.message


def test_a_model_of_a_hub_is_told_to_be_fetched_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lumina.LuminaError, match="E104") as caught:
        lumina.load("owner/model-1B")
    assert "hf download owner/model-1B" in caught.value.hint
    (tmp_path / "owner").mkdir()  # a folder of runs, and a name that is misspelt
    with pytest.raises(lumina.LuminaError, match="E104") as caught:
        lumina.load("owner/model-1B")
    assert "hf download" not in caught.value.hint


@pytest.mark.parametrize(
    ("messages", "code", "said"),
    [
        ([], "E105", "empty"),
        ({"role": "user", "content": "x"}, "E102", "not a list"),
        (["x"], "E102", "message 1"),
        ([{"role": "user"}], "E102", "no 'content'"),
        ([{"role": "assistant", "content": "x"}], "E102", "nothing is asked"),
        ("the quick " * 200, "E005", "shorten"),
    ],
)
def test_what_is_no_conversation_is_refused(run, messages, code, said):
    with pytest.raises(lumina.LuminaError) as caught:
        lumina.chat(run, messages)
    assert caught.value.code == code and said in str(caught.value)


@pytest.mark.parametrize("call", [lumina.generate, lumina.chat])
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("do_sample", "temperature=0"),
        ("max_tokens", "max_new_tokens"),
        ("temprature", "did you mean temperature?"),
        ("devise", "did you mean device?"),
        ("wonder", "there are max_new_tokens, temperature"),
    ],
)
def test_options_of_other_libraries_are_answered_by_meaning(run, call, option, said):
    """Not "load() got an unexpected keyword argument", a call that nobody made."""
    for model in (run, lumina.load(run)):
        with pytest.raises(lumina.LuminaError) as refused:
            call(model, "the", **{option: 1})
        assert refused.value.code == "E004" and said in refused.value.hint


def test_what_a_tokenizer_of_transformers_gives_is_taken_whole():
    model = build_network(tiny_spec())
    rows = ids(vocabulary=16)
    mask = torch.ones_like(rows)
    whole = model(input_ids=rows, attention_mask=mask).logits
    assert torch.equal(whole, model(input_ids=rows).logits)
    mask[1, -3:] = 0
    with pytest.raises(lumina.LuminaError, match="attention_mask has zeros") as refused:
        model(input_ids=rows, attention_mask=mask)
    assert refused.value.code == "E005"


def test_types_and_settings_are_refused_by_name(run):
    assert (
        lumina.load(run, dtype="bfloat16")[0].backbone.compute_dtype == torch.bfloat16
    )
    for wrong in ("int3", "float99", torch.int8):
        with pytest.raises(lumina.LuminaError, match="E005") as refused:
            lumina.load(run, dtype=wrong)
        assert "floating point" in refused.value.message
    with pytest.raises(lumina.LuminaError, match="E005"):
        lumina.Trainer({"preset": "debug"})


def test_options_of_loading_are_for_folders(run):
    with pytest.raises(lumina.LuminaError, match="ema"):
        lumina.generate(lumina.load(run), "the", ema=True)
    with pytest.raises(lumina.LuminaError, match="E002"):
        lumina.generate(run, "the", ema=True)  # there is no average
    with pytest.raises(lumina.LuminaError, match="tokenizer"):
        lumina.generate(tiny(), "the")


def test_a_configuration_is_read_from_a_file(tmp_path):
    (tmp_path / "c.yaml").write_text("hidden_size: 48\nsteps: 3\n")
    config = lumina.Config.load(tmp_path / "c.yaml")
    assert (config.model.hidden_size, config.train.steps) == (48, 3)
    config.save(tmp_path / "again.yaml")
    assert lumina.Config.load(tmp_path / "again.yaml") == config
