"""What a user may choose about the cache of keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.model.host_table import device_of
from lumina.model.kinds.table import why_not

BLOCK = 256
"""Tokens of a block of a paged cache where nothing else is said."""

RING_COLUMNS = 1024
"""Most tokens of a prompt in one pass behind a sliding window."""

if TYPE_CHECKING:
    import torch

    from lumina.infer.kv.kept import Keeping
    from lumina.model.network import Network
    from lumina.ops.attention.beyond import Beyond


@dataclass(frozen=True)
class CacheSettings:
    """How generation keeps the keys and values of the tokens it has seen.

    Attributes:
        dtype: the format in which they are stored: "auto" is the one in which the model
            computes them; "fp32", "bf16", "fp16"; or "fp8", "int8" and "int4", which
            round them (`lumina.ops.kv_formats`).
        offload: keep them in host memory; the device holds those of one layer at a
            time.
        paged: keep them in blocks, which rows take as they grow, and share where their
            texts begin alike.
        block: tokens of a block of a paged cache.
        window: let a model that was trained without a window see only this many of the
            newest tokens; 0: it sees all.
        sinks: with a window, let it also see this many of the first tokens of each row
            (attention sinks, Xiao et al., 2023, arXiv:2309.17453).
    """

    dtype: str = "auto"
    offload: bool = False
    paged: bool = False
    block: int = BLOCK
    window: int = 0
    sinks: int = 0

    def check(self, network: Network) -> None:
        """Refuse what cannot act on a network.

        Raises:
            LuminaError: E005 for a format that there is not; E002 for a model that
                keeps no keys, and for offloading from a processor.
        """
        from lumina.ops.kv_formats.table import find_format
        from lumina.plan.kv_cache import cached_layers

        find_format(self.dtype)
        if self.block < 1:
            raise LuminaError(
                "E005", f"kv-block-size is {self.block}", "give 1 or more, such as 256"
            )
        self._check_window(network)
        if self == CacheSettings():
            return
        if not cached_layers(network.spec):
            raise LuminaError(
                "E002",
                "the model keeps no keys and values: its registered parts remember a "
                "state of fixed size",
                "leave the options of the cache out",
            )
        if self.paged:
            self._check_paged(network)
        if self.offload and place_of(network).type == "cpu":
            raise LuminaError(
                "E002",
                "the model is on the CPU, so its cache is in the host's memory already",
                "leave --kv-cache-offload out, or use a GPU",
            )

    def sight(self, network: Network) -> tuple[int, Beyond]:
        """What a token sees: (the window or 0, what stays visible beyond it)."""
        from lumina.ops.attention.beyond import Beyond

        if self.window:
            return self.window, Beyond(self.sinks)
        return network.spec.window_size, network.spec.beyond_window

    def _check_window(self, network: Network) -> None:
        if self.window < 0 or self.sinks < 0:
            raise LuminaError(
                "E005",
                f"kv-window is {self.window}, kv-sinks {self.sinks}",
                "give whole numbers from 0 on",
            )
        if self.sinks and not self.window:
            raise LuminaError(
                "E002", "--kv-sinks does nothing alone", "add --kv-window 1024"
            )
        if self.sinks and self.paged:
            raise LuminaError(
                "E002",
                "a paged cache keeps whole blocks, not sinks apart from a window",
                "leave --kv-sinks or --kv-cache-paged out",
            )
        spec = network.spec
        why = why_not(spec, "cache_window")
        if why is None and spec.window_size:
            why = "it was trained with a window of its own"
        if self.window and why:
            raise LuminaError(
                "E002",
                f"the model takes no window in the cache: {why}",
                "leave --kv-window out",
            )

    def _check_paged(self, network: Network) -> None:
        why = why_not(network.spec, "paged_cache")
        if why:
            raise LuminaError(
                "E002",
                f"the model takes no paged cache: {why}",
                "leave --kv-cache-paged out",
            )

    def blocks(self, tokens: int) -> int:
        """Blocks that a row of this many tokens takes."""
        return -(-tokens // self.block)

    def keeping(self) -> Keeping:
        """The format and the place."""
        from lumina.infer.kv.kept import Keeping
        from lumina.ops.kv_formats.table import find_format

        return Keeping(find_format(self.dtype), self.offload)

    def needed(self, network: Network, rows: int, tokens: int) -> int:
        """Bytes of the cache for rows of this many tokens, at most."""
        from lumina.plan.kv_cache import kept_tokens, token_bytes

        dtype = network.backbone.compute_dtype
        a_token = token_bytes(network.spec, self.dtype, dtype)
        if self.paged:
            return rows * self.blocks(tokens) * self.block * a_token
        if not self.offload:
            return rows * self._slots(network, tokens) * a_token
        if self.window:
            return rows * (self.window + self._sink_places) * a_token
        return rows * kept_tokens(network.spec, tokens) * a_token

    def _slots(self, network: Network, tokens: int) -> int:
        """Slots of a row in `StaticCache`; one more takes what is padding."""
        window, beyond = self.sight(network)
        if window and not beyond.dilation:
            tokens = min(tokens, beyond.sinks + window + at_once(window) - 1)
        return tokens + 1

    @property
    def _sink_places(self) -> int:
        """Places for sinks, and one for the tokens that are none."""
        return self.sinks + 1 if self.sinks else 0

    def words(self, network: Network, rows: int, tokens: int) -> str:
        """The bytes for rows of this many tokens, beside those of a plain cache."""
        from lumina.quantities import byte_size, counted

        needed = self.needed(network, rows, tokens)
        plain = CacheSettings().needed(network, rows, tokens)
        dtype = str(network.backbone.compute_dtype).removeprefix("torch.")
        kind = dtype if self.dtype == "auto" else self.dtype
        place = ", in the host's memory" if self.offload else ""
        if self.paged:
            place += f", in blocks of {self.block}"
        if self.window:
            place += f", the newest {self.window:,}"
            place += f" and the first {self.sinks}" if self.sinks else ""
        text = (
            f"keys and values: at most {byte_size(needed)} for {counted(rows, 'row')} "
            f"of {tokens:,} tokens ({kind}{place})"
        )
        if needed != plain:
            text += f"; {dtype} would need {byte_size(plain)}"
        return text


def at_once(window: int) -> int:
    """Tokens that a pass behind a sliding window takes at most, in a ring's slots."""
    return min(RING_COLUMNS, max(window, 64))


def place_of(network: Network) -> torch.device:
    """The device that a network is on."""
    return device_of(network)
