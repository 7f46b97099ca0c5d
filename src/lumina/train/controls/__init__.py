"""What can be changed while a job runs: one declaration for each control.

A further control is a subclass of `Control` under `@register_control` in a file of its
own: a plug-in file, or a line in the list of imports below.
"""

from lumina.train.controls import (
    adam,
    checkpoint,
    dataloader,
    depth,
    ending,
    evaluating,
    expert_ranks,
    experts,
    first_weights,
    glide,
    layout,
    memory,
    mixture,
    moments,
    optimizer,
    phases,
    precision,
    regularisation,
    rewarm,
    rollback,
    snapshot,
    weights_in,
)
from lumina.train.controls.change import Change
from lumina.train.controls.control import Control, is_number
from lumina.train.controls.journal import Controls
from lumina.train.controls.table import control_named, known_controls, register_control

__all__ = [
    "Change",
    "Control",
    "Controls",
    "control_named",
    "is_number",
    "known_controls",
    "register_control",
]

OWN = (
    optimizer,
    adam,
    first_weights,
    layout,
    weights_in,
    precision,
    memory,
    experts,
    expert_ranks,
    depth,
    mixture,
    phases,
    moments,
    rollback,
    snapshot,
    checkpoint,
    ending,
    evaluating,
    regularisation,
    rewarm,
    glide,
    dataloader,
)
"""The files of Lumina's own controls; each registers them as it is imported."""
