"""The files of a tokenizer, as transformers reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import tokenizers

from lumina.data.chat_markers import CHAT_TEMPLATE, TOOL_TEMPLATE
from lumina.data.template_files import Templates


def with_begin(
    backend: tokenizers.Tokenizer, before: Sequence[str], token_id: Callable[[str], int]
) -> str:
    """`tokenizer.json`, which puts the tokens `before` at the beginning of a text.

    Args:
        backend: the vocabulary.
        before: the tokens.
        token_id: gives the id of a token.
    """
    if not before:
        return str(backend.to_str(pretty=True))
    state = json.loads(backend.to_str())
    begin = [
        [{"SpecialToken": {"id": token, "type_id": n}} for token in before]
        for n in (0, 1)
    ]
    text = [{"Sequence": {"id": "AB"[n], "type_id": n}} for n in (0, 1)]
    state["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [*begin[0], text[0]],
        "pair": [*begin[0], text[0], *begin[1], text[1]],
        "special_tokens": {
            token: {"id": token, "ids": [token_id(token)], "tokens": [token]}
            for token in before
        },
    }
    written = tokenizers.Tokenizer.from_str(json.dumps(state))
    return str(written.to_str(pretty=True))


def hf_config(
    *,
    bos: str | None,
    eos: str,
    before: Sequence[str],
    kept: dict[str, Any],
    templates: Templates | None,
    markers: bool,
    tools: bool = False,
) -> dict[str, Any]:
    """`tokenizer_config.json`; arguments as those of `Tokenizer`.

    Args:
        markers: the vocabulary has Lumina's own chat markers.
        tools: it has those of tools, too.
    """
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": None,
        "add_bos_token": bool(before),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
    }
    config |= kept
    if templates is not None:
        # What its template can write is what its own files name.
        named = {"bos_token": None, "pad_token": None, **templates.variables}
        config |= {n: kept.get(n, token) for n, token in named.items()}
        config |= templates.to_config()
    elif markers:
        template = TOOL_TEMPLATE if tools else CHAT_TEMPLATE
        if before != (bos,):
            written = json.dumps("".join(before), ensure_ascii=False)
            first = f"{{{{- {written} }}}}" if before else ""
            template = first + template.removeprefix("{{- bos_token }}")
        config["chat_template"] = template
    return config
