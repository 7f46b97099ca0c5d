"""The same fine-tuning by Lumina and by TRL on transformers' Trainer, side by side.

Every step takes all of the data, so the two orders of it do not matter. Both train in
float32 on a CPU: what may differ is the order of sums (packed rows here, padded ones
there), and what the Trainer rounds in its log.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chat_templates import TAGGED, folder_with
from lumina.config import Config
from lumina.data.packing import pack
from lumina.data.prepare import fit_rows, prepare
from lumina.data.tokenizer import Tokenizer
from lumina.train import Trainer

STEPS = 8
RATE = 3e-3
ROW = 256
TOLERANCE = 1e-4
"""Of a loss of about 6: the Trainer's log has four decimals."""

CHATS: list[list[dict[str, str]]] = [
    [
        *([{"role": "system", "content": "Be brief."}] if n % 3 else []),
        {"role": "user", "content": f"How many hens has farm {n}?"},
        {"role": "assistant", "content": "hen, " * (n % 7) + f"so {n % 7}."},
        {"role": "user", "content": f"And farm {n + 1}?  "},
        {"role": "assistant", "content": f" It has {n}.\n"},
    ]
    for n in range(12)
]


def their_folder(folder: Path, template: str) -> Path:
    """A tiny random Llama with a tokenizer, as transformers saves it."""
    import transformers

    folder_with(template, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=ROW,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.save_pretrained(folder)
    return folder


def train_theirs(folder: Path, out: Path) -> tuple[Any, list[float]]:
    """TRL's own preparation, collation and loop; (its data, loss of every step)."""
    import datasets
    import transformers
    import trl

    trainer = trl.SFTTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32
        ),
        processing_class=transformers.AutoTokenizer.from_pretrained(folder),
        train_dataset=datasets.Dataset.from_list([{"messages": c} for c in CHATS]),
        args=trl.SFTConfig(
            output_dir=str(out),
            assistant_only_loss=True,
            max_length=None,
            packing=False,
            per_device_train_batch_size=len(CHATS),
            max_steps=STEPS,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            warmup_steps=0,
            weight_decay=0.0,
            adam_beta2=0.95,
            adam_epsilon=1e-8,
            max_grad_norm=1.0,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            seed=0,
        ),
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return trainer.train_dataset, losses


def train_ours(
    folder: Path, run: Path
) -> tuple[list[tuple[list[int], list[bool]]], list[float]]:
    """(ids and mask of every conversation, loss of every step)."""
    data = run.with_suffix(".jsonl")
    data.write_text("".join(json.dumps({"messages": c}) + "\n" for c in CHATS))
    config = Config(
        train_data=[str(data)],
        eval_fraction=0.0,
        init_from=str(folder),
        run_dir=str(run),
        device="cpu",
        precision="fp32",
        seq_length=ROW,
        steps=STEPS,
        learning_rate=RATE,
        lr_scheduler="constant",
        warmup_steps=0,
        weight_decay=0.0,
        beta2=0.95,
        eps=1e-8,
        max_grad_norm=1.0,
    )
    tokenizer = Tokenizer.from_path(folder)
    prepared = fit_rows(prepare(config, tokenizer=tokenizer), config, ROW)
    rows = len(pack(prepared.train, ROW))
    whole = config.replace(global_batch_size=rows, batch_size=rows)
    Trainer(whole).train()
    metrics = (run / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in metrics]
    found = [tokenizer.encode_chat(chat) for chat in CHATS]  # type: ignore[arg-type]
    return [(ids, [bool(one) for one in mask]) for ids, mask in found], losses


@pytest.mark.slow
def test_ids_masks_and_losses_are_those_of_trl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("transformers", "datasets", "accelerate", "trl"):
        pytest.importorskip(library, reason=f"needs {library}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = their_folder(tmp_path / "base", TAGGED)
    theirs, their_losses = train_theirs(folder, tmp_path / "theirs")
    ours, our_losses = train_ours(folder, tmp_path / "ours")
    for row, (ids, mask) in zip(theirs, ours, strict=True):
        assert row["input_ids"] == ids
        assert [label != -100 for label in row["labels"]] == mask
        assert all(
            label in (-100, index)
            for label, index in zip(row["labels"], ids, strict=True)
        )
    print("step  TRL      Lumina")
    for step, (one, two) in enumerate(zip(their_losses, our_losses, strict=True), 1):
        print(f"{step:>4}  {one:.4f}  {two:.6f}")
    assert their_losses == pytest.approx(our_losses, abs=TOLERANCE)
    assert our_losses[-1] < our_losses[0] - 0.5
