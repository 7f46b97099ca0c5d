"""A model of others that holds conversations: trained further, exported, talked to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import lumina
from chat_templates import CHATML, folder_with
from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
from lumina.infer.sampling import Sampler, Sampling
from training import words

transformers = pytest.importorskip("transformers", reason="transformers is absent")

ANSWERS = {
    "Where is the fox?": "The fox jumps over the dog.",
    "What does copytree return?": "A list [x for x in src].",
    "Who is lazy?": " The dog\nis lazy! 🎉",
}
GENERATION = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers' `save_pretrained` leaves it."""
    folder = folder_with(CHATML, tmp_path_factory.mktemp("instruct") / "theirs")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = transformers.GenerationConfig(
        **GENERATION,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(theirs: Path) -> tuple[Path, Path]:
    """A run that learnt `ANSWERS` by heart, and its export."""
    base = theirs.parent
    chats = [
        [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
        for q, a in ANSWERS.items()
    ]
    lines = [json.dumps({"messages": chat}) + "\n" for chat in chats]
    (base / "chats.jsonl").write_text("".join(lines) * 4)
    assert main(
        words(
            "train --steps 60 --learning-rate 1e-2 --lr-scheduler constant "
            "--warmup-steps 0 --precision fp32 --device cpu --seed 1 --batch-size 4 "
            "--eval-fraction 0 --num-workers 1",
            init_from=theirs,
            train_data=base / "chats.jsonl",
            run_dir=base / "run",
        )
    ) == 0  # fmt: skip
    assert main(words(f"export {base / 'run'} {base / 'out'}")) == 0
    return base / "run", base / "out"


def answer_of_transformers(folder: Path, question: str) -> str:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    made = model.generate(**asked, do_sample=False, max_new_tokens=40)
    said = made[0, asked["input_ids"].shape[1] :]
    assert said[-1] in model.generation_config.eos_token_id  # ended by itself
    return tokenizer.decode(said, skip_special_tokens=True)


def test_transformers_and_lumina_answer_the_same_words(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = trained
    for question, answer in ANSWERS.items():
        assert answer_of_transformers(out, question) == answer
        for folder in (run, out):
            asked = {"temperature": 0, "max_new_tokens": 40, "device": "cpu"}
            assert lumina.chat(folder, question, **asked) == answer
            capsys.readouterr()
            flags = "--temperature 0 --max-new-tokens 40 --device cpu --message"
            assert main([*words(f"chat {folder} {flags}"), question]) == 0
            assert capsys.readouterr().out == answer + "\n"


def test_the_export_has_the_template_and_the_tokens_that_came(
    theirs: Path, trained: tuple[Path, Path]
) -> None:
    before, after = (
        transformers.AutoTokenizer.from_pretrained(folder)
        for folder in (theirs, trained[1])
    )
    assert after.chat_template == before.chat_template == CHATML
    assert after.special_tokens_map == before.special_tokens_map
    assert after.pad_token == "<pad>" and after.pad_token_id == before.pad_token_id
    was, now = (
        json.loads((folder / "generation_config.json").read_text())
        for folder in (theirs, trained[1])
    )
    assert GENERATION.items() <= now.items()
    assert set(now["eos_token_id"]) == set(was["eos_token_id"])
    for name in ("pad_token_id", "bos_token_id"):
        assert now[name] == was[name] is not None


def test_a_chat_has_the_defaults_of_the_model(
    trained: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As transformers' `generate` takes them, wherever the user gives none."""
    chosen: list[Sampling] = []
    begin = Sampler.__init__

    def spied(self: Sampler, sampling: Sampling, rows: int) -> None:
        chosen.append(sampling)
        begin(self, sampling, rows)

    monkeypatch.setattr(Sampler, "__init__", spied)
    capsys.readouterr()
    for folder in trained:
        talk = words(f"chat {folder} --max-new-tokens 2 --device cpu --message hi")
        more = words(f"generate {folder} --max-new-tokens 2 --device cpu --prompt hi")
        assert main(talk) == 0
        assert "temperature 0.6, top-k 20, top-p 0.95" in capsys.readouterr().err
        assert main(more) == 0
        lumina.chat(folder, "hi", max_new_tokens=2, device="cpu")
        lumina.generate(folder, "hi", max_new_tokens=2, device="cpu")
        assert chosen == [Sampling(0.6, 20, 0.95)] * 4
        chosen.clear()
        assert main([*talk, "--top-k", "3", "--seed", "1"]) == 0
        assert chosen == [Sampling(0.6, 3, 0.95, 1)]
        chosen.clear()


def test_what_the_model_asks_for_in_vain_is_told(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained[1], folder)
    file = folder / "generation_config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "repetition_penalty": 1.05, "min_p": 0.0}))
    talk = words(f"chat {folder} --max-new-tokens 2 --device cpu --message hi")
    assert main(talk) == 0
    told = capsys.readouterr().err
    assert "repetition_penalty 1.05" in told and "min_p" not in told
    file.write_text(json.dumps({**values, "temperature": "hot"}))
    assert main(talk) != 0
    told = capsys.readouterr().err
    assert "E005" in told and "generation_config.json is hot" in told
    assert main([*talk, "--temperature", "0"]) == 0


@pytest.mark.parametrize("pad", ["<pad>", None])
def test_a_base_model_keeps_its_pad_token(pad: str | None, tmp_path: Path) -> None:
    """Without a chat template: what has none goes on having none."""
    folder = folder_with(None, tmp_path / "theirs", pad_token=pad)
    Tokenizer.from_path(folder).save(tmp_path / "ours")
    after = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert after.pad_token == pad
