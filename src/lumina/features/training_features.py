"""Features of how weights are fitted and data is fed."""

from __future__ import annotations

from lumina.features.feature import Feature, never

TRAINING_FEATURES = (
    Feature(
        name="ema",
        option="ema_decay",
        summary="evaluate a moving average of the weights",
        stage="step",
        change_cost="reassemble",
        requested=lambda c: c.train.ema_decay > 0,
        active=lambda p: p.ema_decay > 0,
        memory="4 bytes a trained parameter",
        observable="evaluation uses the average; checkpoints hold it",
        without="--ema-decay 0",
    ),
    Feature(
        name="freeze",
        option="freeze",
        summary="parameters that match a pattern do not train",
        stage="build",
        change_cost="reassemble",
        requested=lambda c: bool(c.train.freeze),
        active=lambda p: bool(p.freeze),
        memory="no gradient, moments or master weights for what is frozen",
        observable="frozen weights are bit-identical after training",
        without="no --freeze",
    ),
    Feature(
        name="init_from",
        option="init_from",
        summary="start from the weights of a run, checkpoint or exported folder",
        stage="build",
        change_cost="restart",
        requested=lambda c: c.train.init_from is not None,
        active=never,
        observable="the first loss is that of the given weights",
        without="no --init-from",
    ),
    Feature(
        name="packing",
        option="seq_length",
        summary="documents share rows and do not see each other",
        stage="step",
        change_cost="restart",
        requested=lambda c: False,
        active=lambda p: True,
        observable="a packed document has the loss it has alone; rows hold little "
        "padding",
        without="nothing: it is always on",
    ),
)
"""In the order of listing."""
