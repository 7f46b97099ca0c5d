"""The shape of the network: what does not go together, and what is unusual."""

from __future__ import annotations

from lumina.config.rules.refusing import divisor_below, multiple, refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.features import reason_lacking


def check(settings: Settings) -> None:
    """Refuse widths, heads and rotations that make no network.

    Raises:
        LuminaError: E002.
    """
    _check_heads(settings)
    _check_latent(settings)
    _check_rope(settings)
    _check_beyond_window(settings)


def _check_heads(settings: Settings) -> None:
    model = settings.model
    if model.head_dim is None and model.hidden_size % model.num_heads:
        lower = divisor_below(model.hidden_size, model.num_heads)
        refuse(
            f"hidden_size {model.hidden_size} is not a multiple of num_heads "
            f"{model.num_heads}",
            f"use {lower} heads, a hidden size of "
            f"{multiple(model.hidden_size, 2 * model.num_heads)}, or set head_dim",
        )
    head_dim = model.head_dim or model.hidden_size // model.num_heads
    if head_dim % 2:
        refuse(
            f"num_heads {model.num_heads} gives heads of width {head_dim}: rotary "
            "embeddings turn pairs, so it must be even",
            f"set head_dim {head_dim + 1}, or another number of heads",
        )
    kv_heads = model.num_kv_heads
    if kv_heads is not None and model.num_heads % kv_heads:
        refuse(
            f"num_heads {model.num_heads} is not a multiple of num_kv_heads {kv_heads}",
            f"use {divisor_below(model.num_heads, kv_heads)} key/value heads",
        )


def _check_latent(settings: Settings) -> None:
    model = settings.model
    parts = ("mla_q_rank", "mla_rope_dim", "mla_value_dim")
    if not model.mla_kv_rank:
        for leaf in parts:
            if settings.get(leaf):
                refuse(
                    f"{leaf} {settings.get(leaf)} does nothing: mla_kv_rank is 0",
                    f"set mla_kv_rank, or leave {leaf} out",
                )
        return
    if model.num_kv_heads not in (None, model.num_heads):
        refuse(
            f"num_kv_heads {model.num_kv_heads} and mla_kv_rank {model.mla_kv_rank} do "
            "not go together: every head has keys and values from the latent",
            "leave num_kv_heads out",
        )
    head_dim = model.head_dim or model.hidden_size // model.num_heads
    if model.mla_rope_dim % 2 or model.mla_rope_dim >= head_dim:
        refuse(
            f"mla_rope_dim {model.mla_rope_dim} of head_dim {head_dim}",
            "an even number of a head's channels, not all, are rotated",
        )
    if model.mla_value_dim > head_dim:
        refuse(
            f"mla_value_dim {model.mla_value_dim} is more than head_dim {head_dim}",
            "values are at most as wide as keys",
        )


def _check_rope(settings: Settings) -> None:
    model = settings.model
    if model.rope_factor != 1.0 and model.rope_scaling == "none":
        refuse(
            f"rope_factor {model.rope_factor:g} does nothing: rope_scaling is none",
            "choose rope_scaling linear, ntk, yarn or llama3, or leave rope_factor out",
        )
    readers = {
        "rope_original_length": ("yarn", "llama3"),
        "rope_low_freq_factor": ("llama3",),
        "rope_high_freq_factor": ("llama3",),
    }
    for leaf, scalings in readers.items():
        if settings.get(leaf) is not None and model.rope_scaling not in scalings:
            refuse(
                f"{leaf} {settings.get(leaf)} does nothing: rope_scaling is "
                f"{model.rope_scaling}",
                f"choose rope_scaling {' or '.join(scalings)}, or leave {leaf} out",
            )
    low = model.rope_low_freq_factor or 1.0
    high = model.rope_high_freq_factor or 4.0
    if low >= high:
        refuse(
            f"rope_low_freq_factor {low:g} is not below rope_high_freq_factor {high:g}",
            "llama3 keeps what turns more often than the high one, and stretches what "
            "turns less often than the low one",
        )


def _check_beyond_window(settings: Settings) -> None:
    model = settings.model
    for leaf in ("attention_sinks", "attention_dilation"):
        value = settings.get(leaf)
        if value and not model.window_size:
            refuse(
                f"{leaf} {value} does nothing: window_size is 0, so that a token sees "
                "all earlier ones",
                f"set window_size, or leave {leaf} out",
            )
    if model.attention_dilation == 1:
        refuse(
            "attention_dilation 1 makes every earlier token visible, as no window does",
            "leave window_size and attention_dilation out, or use 2 or more",
        )


def advice(settings: Settings) -> list[str]:
    """Advice on unusual values."""
    model, found = settings.model, []
    chosen = reason_lacking(settings, "chosen_length") is None
    if model.seq_length & (model.seq_length - 1) and chosen:
        found.append(
            f"seq_length {model.seq_length} is not a power of two; kernels prefer one"
        )
    if model.vocab_size is not None and model.vocab_size % 64 and chosen:
        found.append(
            f"vocab_size {model.vocab_size} is not a multiple of 64; it is padded to "
            f"{-(-model.vocab_size // 64) * 64} in memory"
        )
    head_dim = model.head_dim or model.hidden_size // model.num_heads
    if head_dim % 8 or head_dim > 256:
        found.append(
            f"heads of width {head_dim}: fast attention wants a multiple of 8, "
            "at most 256"
        )
    if model.window_size and model.window_size >= model.seq_length:
        found.append(
            f"window_size {model.window_size} covers the whole row of "
            f"{model.seq_length}: attention is full"
        )
    if model.rope_scaling != "none" and model.rope_factor == 1.0:
        found.append(
            f"rope_scaling {model.rope_scaling} with rope_factor 1 changes nothing"
        )
    if model.dropout > 0.3:
        found.append(f"dropout {model.dropout:g} is above the usual 0 to 0.3")
    return found


RULE = Rule(check=check, advice=advice)
