"""What stands in the way of a run, in one list for `train` and for all that plans."""

from lumina.train.start_checks.declared import (
    CHECKS,
    Beginning,
    Declared,
    Stage,
    check,
    register_check,
)

__all__ = ["CHECKS", "Beginning", "Declared", "Stage", "check", "register_check"]
