"""What reasoners cost."""

from __future__ import annotations

from dataclasses import replace

from lumina.model.freezing import without_absent
from lumina.model.spec import HrmSpec, ModelSpec
from lumina.plan.costs.cost import Components, Cost
from lumina.plan.costs.forward import BYTES
from lumina.plan.costs.layout import Layout
from lumina.plan.costs.state import state_bytes
from lumina.plan.count import Counts


class PuzzleReasoner(Cost):
    """One segment of a puzzle a step."""

    field = "hrm"

    def applies(self, spec: ModelSpec) -> bool:
        """Whether rows are puzzles."""
        return spec.solves_puzzles

    def flops(self, spec: ModelSpec, counts: Counts) -> float | None:
        """Every update that a segment executes."""
        return _of_a_segment(spec, counts)

    def cached_layers(self, spec: ModelSpec) -> int:
        """None: a puzzle is read as a whole."""
        return 0

    def components(
        self, spec: ModelSpec, layout: Layout, plain: Components
    ) -> dict[str, int] | None:
        """The blocks whose updates carry gradient, and the carry."""
        return _recurrent(spec, layout, plain)


class TextReasoner(Cost):
    """All segments of every token a step."""

    field = "hrm"

    def applies(self, spec: ModelSpec) -> bool:
        """Whether it reasons about text."""
        return spec.hrm is not None and not spec.solves_puzzles

    def flops(self, spec: ModelSpec, counts: Counts) -> float | None:
        """Every update of every segment."""
        return _of_all_segments(spec, counts)

    def cached_layers(self, spec: ModelSpec) -> int:
        """Those of every application of a block in every segment."""
        hrm = _hrm(spec)
        return hrm.halt_max_steps * reasoning_blocks(spec, hrm)[0]

    def components(
        self, spec: ModelSpec, layout: Layout, plain: Components
    ) -> dict[str, int] | None:
        """The blocks of every segment whose updates carry gradient."""
        return _halting(spec, layout, plain)


def _of_a_segment(spec: ModelSpec, counts: Counts) -> float:
    """One training step of a reasoner of puzzles, for a token of its rows.

    What is executed: every update once forwards, in the hrm variant once more for the
    worth of going on, and the last updates backwards. All positions see all others.
    """
    hrm = _hrm(spec)
    block = _reasoning_block(spec, counts, spec.seq_length)
    updates, learned = reasoning_blocks(spec, hrm)
    twice = hrm.learns_continue
    forwards = 2 * updates if twice else updates
    return (forwards + 2 * learned) * block + 6.0 * counts.head


def _of_all_segments(spec: ModelSpec, counts: Counts) -> float:
    """One training step of a causal reasoner, for a token.

    Every token is computed in every segment, halted or not: every update forwards, the
    last ones backwards, and the head.
    """
    hrm = _hrm(spec)
    block = _reasoning_block(spec, counts, spec.seq_length / 2)
    updates, learned = reasoning_blocks(spec, hrm)
    head = spec.padded_vocab_size * spec.hidden_size
    return hrm.halt_max_steps * ((updates + 2 * learned) * block + 6.0 * head)


def reasoning_blocks(spec: ModelSpec, hrm: HrmSpec) -> tuple[int, int]:
    """Blocks of a segment's updates, and of those that carry gradient."""
    one = hrm.variant == "trm"
    high = hrm.l_layers if one else hrm.h_layers
    updates = hrm.h_cycles * (hrm.l_cycles * hrm.l_layers + high)
    return updates, hrm.l_layers * (hrm.l_cycles + 1) if one else spec.num_layers


def _reasoning_block(spec: ModelSpec, counts: Counts, attended: float) -> float:
    """One block forwards, for a token that sees this many others."""
    products = 2.0 * (counts.attention + counts.feedforward) / spec.num_layers
    return products + 4.0 * spec.num_heads * spec.head_dim * attended


def _recurrent(spec: ModelSpec, layout: Layout, plain: Components) -> dict[str, int]:
    """A reasoner: the blocks whose updates carry gradient, and the carry.

    They are counted as blocks of a transformer, whose norms keep a little more. The
    carry is there twice, before and after the step, for every forward of the step.
    """
    hrm = _hrm(spec)
    one = hrm.variant == "trm"
    kept = hrm.l_layers * (hrm.l_cycles + 1) if one else spec.num_layers
    length = spec.seq_length + 1
    unrolled = without_absent(
        replace(spec, hrm=None, num_layers=kept, seq_length=length)
    )
    parts = plain(unrolled, layout) | state_bytes(spec, layout)
    rows = layout.micro_batch_size * layout.grad_accum
    state = rows * length * spec.hidden_size * BYTES[layout.compute_dtype]
    labels = 2 * 8 * rows * length
    parts["activations"] += 2 * (2 * state + labels)
    # Cross entropy in float64: the scores, their logarithms and their gradients.
    parts["logits"] += 8 * 8 * layout.micro_batch_size * length * spec.vocab_size
    return parts


def _halting(spec: ModelSpec, layout: Layout, plain: Components) -> dict[str, int]:
    """A causal reasoner: the blocks of every segment whose updates carry gradient.

    Beside them the keys and values of every application of a block, the state after
    every segment (and a float32 copy for the halting head), and as many hidden states
    for the head as there are segments.
    """
    hrm = _hrm(spec)
    applications, learned = reasoning_blocks(spec, hrm)
    segments = hrm.halt_max_steps
    unrolled = without_absent(replace(spec, hrm=None, num_layers=learned * segments))
    parts = plain(unrolled, layout) | state_bytes(spec, layout)
    tokens = layout.micro_batch_size * spec.seq_length
    element = BYTES[layout.compute_dtype]
    # Those of the segment before live until each has been made again.
    keys = 2 * (applications + 1) * spec.num_kv_heads * spec.head_dim
    state = spec.hidden_size * (2 * element + (4 if element == 2 else 0))
    parts["activations"] += tokens * (keys * element + segments * (state + 32))
    hidden = 2 * segments * spec.hidden_size * element
    parts["logits"] += tokens * hidden
    return parts


def _hrm(spec: ModelSpec) -> HrmSpec:
    assert spec.hrm is not None
    return spec.hrm
