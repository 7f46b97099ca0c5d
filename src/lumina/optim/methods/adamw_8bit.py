"""AdamW with 8-bit moments, in blocks of 256.

Dettmers et al., 2022, arXiv:2110.02861: codes with a dynamic exponent.
"""

from __future__ import annotations

from lumina.ops.low_bits.dynamic_map import dynamic_map
from lumina.optim.blocks import Code
from lumina.optim.coded_moments import ROLES, CodedMoments, coded_states
from lumina.optim.declared import by_element, register_optimizer

CODES = {
    "exp_avg": Code(dynamic_map(8, signed=True), 8),
    "exp_avg_sq": Code(dynamic_map(8, signed=False), 8, never_zero=True),
}


@register_optimizer(
    "adamw_8bit",
    words="AdamW with 8-bit moments",
    transfer=by_element,
    states=coded_states(CODES),
    settings={"beta1": "beta1", "beta2": "beta2", "eps": "eps"},
    roles=ROLES,
    dimensions=2,
    rest="adamw",
)
class AdamW8Bit(CodedMoments):
    """AdamW with codes of 8 bits; arguments as of `SmallMoments`."""

    codes = CODES
