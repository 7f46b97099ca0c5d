"""Folders of GPT-2 and Phi, which are read and not written.

Their blocks are `lumina.model.kinds.style`. GPT-2 keeps its matrices transposed, and
query, key and value in one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec, StyleSpec
from lumina.state.huggingface.formats import Format
from lumina.state.huggingface.names import EMBEDDING, HEAD, HEAD_BIAS, Entry
from lumina.state.huggingface.numbers import count, positive
from lumina.state.huggingface.rope import rope_from

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Older:
    """A family of older folders.

    Attributes:
        row: its name and title.
        spec: the shape that a config.json describes.
        entries: every tensor of a folder, of which these names are there.
        embedding: how the name of the table of token vectors ends.
    """

    row: Format
    spec: Callable[[Config], ModelSpec]
    entries: Callable[[ModelSpec, Collection[str]], Iterator[Entry]]
    embedding: str


def _check(config: Config, title: str, expected: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse settings that change the function and that Lumina's model lacks.

    Raises:
        LuminaError: E002 naming the key.
    """
    for key, allowed in expected.items():
        if config.get(key, allowed[0]) not in allowed:
            raise LuminaError(
                "E002",
                f"config.json: {key}={config[key]!r} is not what Lumina's model does",
                f"{title} weights with {allowed[0]!r} can be imported",
            )


def _padded(vocab: int) -> int:
    return -(-vocab // 64) * 64


def _heads(width: int, heads: int) -> int:
    """The width of a head.

    Raises:
        LuminaError: E102.
    """
    if width % heads or width // heads % 2:
        raise LuminaError(
            "E102",
            f"config.json: a width of {width} and {heads} heads do not go together",
            "the heads divide the width into even parts",
        )
    return width // heads


_GELU = ("gelu_new", "gelu_pytorch_tanh")


def _gpt2(config: Config) -> ModelSpec:
    _check(
        config,
        "GPT-2",
        {
            "activation_function": _GELU,
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
            "tie_word_embeddings": (True,),
        },
    )
    width, heads = count(config, "n_embd"), count(config, "n_head")
    inner = 4 * width if config.get("n_inner") is None else count(config, "n_inner")
    vocab = count(config, "vocab_size")
    return ModelSpec(
        vocab_size=vocab,
        padded_vocab_size=_padded(vocab),
        hidden_size=width,
        num_layers=count(config, "n_layer", limit=2**16),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=_heads(width, heads),
        intermediate_size=inner,
        seq_length=count(config, "n_positions"),
        norm_eps=positive(config, "layer_norm_epsilon", 1e-5),
        init_std=positive(config, "initializer_range", 0.02),
        attention_bias=True,
        tie_embeddings=True,
        pos_encodings="learned",
        style=StyleSpec("gpt2"),
    )


def _phi(config: Config) -> ModelSpec:
    _check(
        config,
        "Phi",
        {
            "hidden_act": _GELU,
            "qk_layernorm": (False,),
            "tie_word_embeddings": (False,),
        },
    )
    width, heads = count(config, "hidden_size"), count(config, "num_attention_heads")
    keys = heads
    if config.get("num_key_value_heads") is not None:
        keys = count(config, "num_key_value_heads")
    if heads % keys:
        raise LuminaError(
            "E102",
            f"config.json: {heads} heads, {keys} key/value heads do not go together",
            "query heads are a multiple of key/value heads",
        )
    # transformers 5 says it beside the base of the rotations.
    turned = dict(config.get("rope_parameters") or {})
    share = turned.pop("partial_rotary_factor", None)
    if share is None:
        share = config.get("partial_rotary_factor", 0.5)
    plain = {k: v for k, v in config.items() if k != "partial_rotary_factor"}
    if turned:
        plain["rope_parameters"] = turned
    vocab, head_dim = count(config, "vocab_size"), _heads(width, heads)
    style = StyleSpec("phi", positive({"share": share}, "share"))
    if style.rotary_share > 1 or int(head_dim * style.rotary_share) % 2:
        raise LuminaError(
            "E102",
            f"config.json: partial_rotary_factor {share} of heads of {head_dim} "
            "channels",
            "an even number of channels of a head is rotated",
        )
    return ModelSpec(
        vocab_size=vocab,
        padded_vocab_size=_padded(vocab),
        hidden_size=width,
        num_layers=count(config, "num_hidden_layers", limit=2**16),
        num_heads=heads,
        num_kv_heads=keys,
        head_dim=head_dim,
        intermediate_size=count(config, "intermediate_size"),
        seq_length=count(config, "max_position_embeddings"),
        norm_eps=positive(config, "layer_norm_eps", 1e-5),
        init_std=positive(config, "initializer_range", 0.02),
        attention_bias=True,
        style=style,
        **rope_from(plain),
    )


def _both(
    theirs: str, ours: str, rows: int, columns: int = 0, transposed: bool = False
) -> Iterator[Entry]:
    """Weight and bias of a linear layer, or of a norm where there are no columns."""
    shape = (columns, rows) if transposed else (rows, columns)
    weight = shape if columns else (rows,)
    yield Entry(f"{theirs}.weight", f"{ours}.weight", weight, transposed=transposed)
    yield Entry(f"{theirs}.bias", f"{ours}.bias", (rows,))


def _gpt2_entries(spec: ModelSpec, names: Collection[str]) -> Iterator[Entry]:
    width, inner = spec.hidden_size, spec.intermediate_size
    prefix = "" if "wte.weight" in names else "transformer."
    yield Entry(f"{prefix}wte.weight", EMBEDDING, (spec.vocab_size, width))
    table = "backbone.position_embedding.weight"
    yield Entry(f"{prefix}wpe.weight", table, (spec.seq_length, width))
    for layer in range(spec.num_layers):
        ours, theirs = f"backbone.blocks.{layer}", f"{prefix}h.{layer}"
        yield from _both(f"{theirs}.ln_1", f"{ours}.attention_norm", width)
        for place, piece in enumerate("qkv"):
            rows, name = (place * width, (place + 1) * width), f"{theirs}.attn.c_attn"
            logical = f"{ours}.attention.{piece}"
            yield Entry(
                f"{name}.weight", f"{logical}.weight", (width, 3 * width), rows=rows,
                transposed=True,
            )  # fmt: skip
            yield Entry(f"{name}.bias", f"{logical}.bias", (3 * width,), rows=rows)
        out = f"{ours}.attention.out"
        yield from _both(f"{theirs}.attn.c_proj", out, width, width, True)
        yield from _both(f"{theirs}.ln_2", f"{ours}.feedforward_norm", width)
        fed = f"{ours}.feedforward"
        yield from _both(f"{theirs}.mlp.c_fc", f"{fed}.up", inner, width, True)
        yield from _both(f"{theirs}.mlp.c_proj", f"{fed}.down", width, inner, True)
    yield from _both(f"{prefix}ln_f", "backbone.norm", width)


def _phi_entries(spec: ModelSpec, names: Collection[str]) -> Iterator[Entry]:
    width, inner = spec.hidden_size, spec.intermediate_size
    queries = spec.num_heads * spec.head_dim
    keys = spec.num_kv_heads * spec.head_dim
    yield Entry("model.embed_tokens.weight", EMBEDDING, (spec.vocab_size, width))
    for layer in range(spec.num_layers):
        ours, theirs = f"backbone.blocks.{layer}", f"model.layers.{layer}"
        yield from _both(f"{theirs}.input_layernorm", f"{ours}.attention_norm", width)
        for piece, rows in (("q", queries), ("k", keys), ("v", keys)):
            name = f"{theirs}.self_attn.{piece}_proj"
            yield from _both(name, f"{ours}.attention.{piece}", rows, width)
        name = f"{theirs}.self_attn.dense"
        yield from _both(name, f"{ours}.attention.out", width, queries)
        fed = f"{ours}.feedforward"
        yield from _both(f"{theirs}.mlp.fc1", f"{fed}.up", inner, width)
        yield from _both(f"{theirs}.mlp.fc2", f"{fed}.down", width, inner)
    yield from _both("model.final_layernorm", "backbone.norm", width)
    yield Entry("lm_head.weight", HEAD, (spec.vocab_size, width))
    yield Entry("lm_head.bias", HEAD_BIAS, (spec.vocab_size,))


OLDER = {
    "gpt2": Older(
        Format("gpt2", "GPT2LMHeadModel", "GPT-2"), _gpt2, _gpt2_entries, "wte.weight"
    ),
    "phi": Older(
        Format("phi", "PhiForCausalLM", "Phi"),
        _phi,
        _phi_entries,
        "embed_tokens.weight",
    ),
}
"""By `model_type`."""
