"""What the model asks of a key/value cache; the cache itself lives with inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from lumina.ops.attention.beyond import Beyond
    from lumina.ops.attention.dispatch import Pattern


class LayerCache(Protocol):
    """What attention asks of a cache: to keep its keys and give back all of them."""

    def update(self, layer_index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new keys and values of one layer; return all that may be seen.

        Args:
            layer_index: the block's index.
            k: [B, K, s, head_dim], already normalised and rotated.
            v: [B, K, s, head_dim]. Latent attention gives its latent for keys and the
                shared rotated key for values: one head, of different widths.

        Returns:
            Keys and values, [B, K, T, head_dim].
        """
        ...


class Cache(LayerCache, Protocol):
    """Keys and values of the tokens seen so far, row by row.

    A forward pass calls `positions` (only from `Network.logits`) and `mask` once, then
    `update` once for every layer in order. T is the length `update` returns in this
    pass, the new tokens included; it is the same for all layers.

    Attributes:
        length: T, once `mask` has been called.
    """

    length: int

    def holds(self, layer_index: int) -> bool:
        """Whether a layer's keys are kept."""
        ...

    def fork(self, layer_index: int, source: int) -> None:
        """Give a layer that is not held the earlier tokens' keys of another."""
        ...

    def recall(self, layer_index: int) -> dict[str, Tensor]:
        """What a recurrent layer remembered of the earlier tokens; {} before any."""
        ...

    def remember(self, layer_index: int, **state: Tensor) -> None:
        """Keep a recurrent layer's state after the new tokens, each [B, ...]."""
        ...

    def positions(self, input_ids: Tensor) -> Tensor:
        """The position of every new token in its row, [B, s] int64 for [B, s]."""
        ...

    def mask(self, position_ids: Tensor) -> Tensor | None:
        """Which cached keys the new queries may see.

        Args:
            position_ids: [B, s] int64, positions of the new tokens.

        Returns:
            [B, 1, s, T] bool, True where a query may see a key: causal order, the
            sliding window, padding and unused slots are all its business. Every query
            must see at least one key. None means plain causal order with the s
            queries being the last s of the T keys, and is only right when no window
            or padding hides a key.
        """
        ...

    def choose(
        self, slot: tuple[int, int], columns: Tensor, taken: Tensor
    ) -> tuple[LayerCache, Tensor]:
        """Prepare for a layer that only some of the new tokens go through.

        Args:
            slot: (recursion, block), under which these keys are kept apart.
            columns: [B, n] int64, which of the s new tokens, rising along a row.
            taken: [B, n] bool; the others leave no key.

        Returns:
            What the layer's attention is to call `update` of, once, and the mask
            [B, 1, n, T] over the keys that this returns.
        """
        ...


def shapes_follow_data(cache: Cache | None) -> bool:
    """Whether a forward pass with a cache may have shapes that tokens decide.

    It then computes only what is needed, and waits for the device to know how much. A
    cache with `fixed_shapes` forbids it: such a pass can be recorded and run again.
    """
    return cache is not None and not getattr(cache, "fixed_shapes", False)


@runtime_checkable
class WithPattern(Protocol):
    """A cache that says what is seen by a whole pattern, in place of a mask."""

    def pattern(self, window: int, beyond: Beyond) -> Pattern:
        """What the new queries see; called once in a forward pass, before `update`.

        Args:
            window: as in `ModelSpec`.
            beyond: what stays visible beyond the window.
        """
        ...
