"""AdamW with 4-bit moments, in blocks of 256.

Li et al., 2023, arXiv:2309.01507: a dynamic exponent for the mean, and evenly spread
values without 0 for the mean square.
"""

from __future__ import annotations

from lumina.ops.low_bits.dynamic_map import dynamic_map
from lumina.optim.blocks import Code, linear_map
from lumina.optim.coded_moments import ROLES, CodedMoments, coded_states
from lumina.optim.declared import by_element, register_optimizer

CODES = {
    "exp_avg": Code(dynamic_map(4, signed=True), 4),
    "exp_avg_sq": Code(linear_map(4), 4),
}


@register_optimizer(
    "adamw_4bit",
    words="AdamW with 4-bit moments",
    transfer=by_element,
    states=coded_states(CODES),
    settings={"beta1": "beta1", "beta2": "beta2", "eps": "eps"},
    roles=ROLES,
    dimensions=2,
    rest="adamw",
)
class AdamW4Bit(CodedMoments):
    """AdamW with codes of 4 bits; arguments as of `SmallMoments`."""

    codes = CODES
