"""Folders of tokenizers as models of several makers have them on the hub."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as Backend

TEXT = "The quick brown fox jumps over the lazy dog. def foo(x): return x\n"


@dataclass
class Make:
    """A tokenizer as its folder on the hub has it, and what is to be found in it.

    Attributes:
        specials: added to the vocabulary.
        config: tokenizer_config.json; None: there is none.
        begins: the begin token that prompts have.
        ends: names of the tokens that end an answer, the one of documents first.
        model: what config.json says.
        generation: what generation_config.json says.
        template: whether tokenizer.json itself puts the first special before a text;
            or all that it puts around "$A".
        note: a word of the remark that loading leaves.
    """

    specials: list[str]
    config: dict[str, Any] | None
    begins: str | None
    ends: list[str]
    model: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    template: bool | list[str] = False
    note: str = ""


LLAMA_2 = ["<s>", "</s>", "<unk>"]
LLAMA_3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
NAMED = {**FAST, "bos_token": "<s>", "eos_token": "</s>"}

MISTRAL = ["<s>", "</s>", "<unk>", "[INST]", "[/INST]"]
GEMMA = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
GLM = ["[gMASK]", "<sop>", "<|endoftext|>", "<|user|>"]

MAKES = {
    "llama-2": Make(
        LLAMA_2, {**NAMED, "add_bos_token": True}, "<s>", ["</s>"], template=True
    ),
    "llama-2, tokens as objects": Make(
        LLAMA_2,
        {
            **FAST,
            "bos_token": {"__type": "AddedToken", "content": "<s>", "special": True},
            "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
        },
        "<s>",
        ["</s>"],
        template=True,
    ),
    "llama-2, nothing put before": Make(LLAMA_2, NAMED, None, ["</s>"]),
    "llama-2, add_bos_token alone": Make(
        LLAMA_2,
        {**NAMED, "tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True},
        None,
        ["</s>"],
        note="add_bos_token is true, but tokenizer.json puts nothing before a text",
    ),
    "llama-3": Make(
        LLAMA_3,
        {**FAST, "bos_token": LLAMA_3[0], "eos_token": LLAMA_3[1]},
        LLAMA_3[0],
        LLAMA_3[1:],
        model={"eos_token_id": LLAMA_3[1:3]},
        generation={"eos_token_id": LLAMA_3[2:]},
        template=True,
    ),
    "qwen": Make(
        QWEN,
        {**FAST, "bos_token": None, "eos_token": QWEN[2], "add_bos_token": False},
        None,
        [QWEN[2], QWEN[0]],
        # As Qwen2.5 has it: the tokenizer's word counts, not this begin token.
        model={"bos_token_id": QWEN[0], "eos_token_id": QWEN[2]},
        generation={"bos_token_id": QWEN[0], "eos_token_id": [QWEN[2], QWEN[0]]},
    ),
    "qwen with a begin token": Make(
        QWEN,
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "bos_token": QWEN[0],
            "eos_token": QWEN[2],
        },
        None,
        QWEN[2:],
    ),
    "mistral": Make(
        MISTRAL,
        {**NAMED, "tokenizer_class": "LlamaTokenizer", "add_bos_token": True},
        "<s>",
        ["</s>"],
        template=True,
    ),
    "gemma": Make(
        GEMMA,
        {**FAST, "bos_token": GEMMA[0], "eos_token": GEMMA[1]},
        GEMMA[0],
        [GEMMA[1], GEMMA[3]],
        generation={"eos_token_id": [GEMMA[1], GEMMA[3]]},
        template=True,
    ),
    "gpt-2": Make(
        QWEN[:1], {**FAST, "bos_token": QWEN[0], "eos_token": QWEN[0]}, None, QWEN[:1]
    ),
    "gpt-2 of its own class": Make(
        QWEN[:1],
        {
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": QWEN[0],
            "eos_token": QWEN[0],
            "add_bos_token": False,
        },
        None,
        QWEN[:1],
    ),
    "gpt-neox": Make(
        LLAMA_2,
        {**NAMED, "tokenizer_class": "GPTNeoXTokenizer"},
        None,
        ["</s>"],
        template=True,
    ),
    "glm": Make(
        GLM, {**FAST, "eos_token": GLM[2]}, GLM[0], GLM[2:3], template=[*GLM[:2], "$A"]
    ),
    "an end behind": Make(
        LLAMA_2, NAMED, "<s>", ["</s>"], template=["<s>", "$A", "</s>"]
    ),
    "null, in the template": Make(
        LLAMA_2, {**NAMED, "bos_token": None}, "<s>", ["</s>"], template=True
    ),
    "another in the template": Make(
        LLAMA_2, NAMED, "<unk>", ["</s>"], template=["<unk>", "$A"]
    ),
    "null, <s> in the vocabulary": Make(
        LLAMA_2, {**NAMED, "bos_token": None}, None, ["</s>"]
    ),
    "absent, <s> in the vocabulary": Make(
        LLAMA_2, {**FAST, "eos_token": "</s>"}, None, ["</s>"]
    ),
    "absent, in the template": Make(
        LLAMA_2, {**FAST, "eos_token": "</s>"}, "<s>", ["</s>"], template=True
    ),
    "named and switched off": Make(
        LLAMA_2, {**NAMED, "add_bos_token": False}, None, ["</s>"]
    ),
    "switched off against the template": Make(
        LLAMA_2,
        {**NAMED, "add_bos_token": False},
        "<s>",
        ["</s>"],
        template=True,
        note="add_bos_token is false, but tokenizer.json puts <s> before a text",
    ),
    "begin token not in the vocabulary": Make(
        LLAMA_2,
        {**NAMED, "bos_token": "<nope>"},
        None,
        ["</s>"],
        note="<nope> is not in the vocabulary",
    ),
    "end token null": Make(
        LLAMA_2, {**NAMED, "eos_token": None}, None, ["</s>"], note="null"
    ),
    "end token null, named by the model": Make(
        LLAMA_2,
        {**NAMED, "eos_token": None},
        None,
        ["<unk>"],
        model={"eos_token_id": "<unk>"},
        note="<unk>",
    ),
    "end token not in the vocabulary": Make(
        LLAMA_2,
        {**NAMED, "eos_token": "<nope>"},
        None,
        ["</s>"],
        note="<nope> is not in the vocabulary",
    ),
    "no word of an end token": Make(
        LLAMA_2, None, None, ["</s>"], note="no file beside tokenizer.json"
    ),
    "an end id past the vocabulary": Make(
        LLAMA_2, NAMED, None, ["</s>"], generation={"eos_token_id": 9999}, note="9999"
    ),
}


def write(make: Make, folder: Path) -> Path:
    """The folder of a tokenizer as others write it."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([TEXT] * 4, trainer)
    backend.add_special_tokens([AddedToken(n, special=True) for n in make.specials])
    first = make.specials[0]
    if make.template:
        single = [first, "$A"] if make.template is True else make.template
        put = [(token, backend.token_to_id(token)) for token in single if token != "$A"]
        backend.post_processor = processors.Sequence(
            [
                backend.post_processor,
                processors.TemplateProcessing(single=single, special_tokens=put),
            ]
        )
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))

    def numbered(value: Any) -> Any:
        if isinstance(value, list):
            return [numbered(one) for one in value]
        return backend.token_to_id(value) if isinstance(value, str) else value

    files = {"tokenizer_config.json": make.config}
    for file, said in (
        ("config.json", make.model), ("generation_config.json", make.generation),
    ):  # fmt: skip
        files[file] = {name: numbered(value) for name, value in said.items()} or None
    for file, said in files.items():
        if said is not None:
            (folder / file).write_text(json.dumps(said))
    return folder
