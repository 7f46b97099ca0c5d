"""A control outside the package: how fast the moving average of the weights forgets."""

import lumina
from lumina.errors import LuminaError
from lumina.train.controls import Control, is_number


@lumina.register_control
class AverageDecay(Control):
    name = "average_decay"
    allowed = "a decay is a number from 0, below 1"

    def makes_sense(self, value):
        return is_number(value) and 0 <= value < 1

    def check_plan(self, plan):
        if not plan.ema_decay:
            raise LuminaError(
                "E002", "this run keeps no average", "train with --ema-decay 0.999"
            )

    def now(self, program, step):
        return program.average.decay

    def set(self, program, value):
        program.average.decay = value
