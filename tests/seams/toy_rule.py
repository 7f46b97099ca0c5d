"""A rule outside the package: it halves the learning rate on a plateau."""

import math

import lumina
from lumina.train.rules import Proposal, Rule

STEPS = 2


@lumina.register_rule
class HalveOnPlateau(Rule):
    name = "halve_on_plateau"
    changes = ("learning_rate",)
    cooldown = 4

    def __init__(self):
        self.best, self.waited = math.inf, 0

    @classmethod
    def wanted(cls, plan):
        return f"halves the rate when the loss has not fallen in {STEPS} steps"

    def see(self, row):
        if row["loss"] is not None:
            self.waited = 0 if row["loss"] < self.best else self.waited + 1
            self.best = min(self.best, row["loss"])

    def propose(self, step, now):
        if self.waited < STEPS:
            return None
        return Proposal(
            "learning_rate",
            now("learning_rate") / 2,
            f"the loss has not fallen in {self.waited} steps",
            evidence={"best_loss": self.best},
            confidence=0.7,
        )

    def state(self):
        return {"best": self.best, "waited": self.waited}

    def load(self, state):
        self.best, self.waited = state["best"], state["waited"]
