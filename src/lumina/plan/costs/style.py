"""What blocks of older families cost beside those of a plain transformer."""

from __future__ import annotations

from lumina.model.spec import ModelSpec
from lumina.plan.costs.cost import Cost
from lumina.plan.costs.forward import Forward


class Styled(Cost):
    """Blocks keep less than SwiGLU's; a head with a bias is copied for its loss."""

    field = "style"

    def working(self, spec: ModelSpec, forward: Forward) -> int:
        """The head's matrix with its bias beside it, and its gradient."""
        assert spec.style is not None
        if not spec.style.parallel:
            return 0
        return 2 * 4 * spec.padded_vocab_size * (spec.hidden_size + 8)
