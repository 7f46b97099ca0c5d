"""Features of the network's shape."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Feature


def _routed(config: Any) -> bool:
    return bool(config.moe.use_moe)


MODEL_FEATURES = (
    Feature(
        name="sliding_window",
        option="window_size",
        summary="attention looks back a fixed number of tokens",
        stage="build",
        change_cost="reassemble",
        requested=lambda c: c.model.window_size > 0,
        active=lambda p: p.spec.window_size > 0,
        observable="a token further back than the window does not change the logits "
        "of a single layer",
        without="--window-size 0",
    ),
    Feature(
        name="qk_norm",
        option="qk_norm",
        summary="normalise queries and keys before their product",
        stage="build",
        change_cost="restart",
        requested=lambda c: c.model.qk_norm != "none",
        active=lambda p: p.spec.qk_norm != "none",
        memory="activations: one more copy of queries and keys",
        observable="scaling the query projection does not change the logits",
        without="--qk-norm none",
    ),
    Feature(
        name="rope_scaling",
        option="rope_scaling",
        summary="stretch rotary embeddings past the trained length",
        stage="build",
        change_cost="reassemble",
        requested=lambda c: c.model.rope_scaling != "none",
        active=lambda p: p.spec.rope_scaling != "none",
        observable="the rotary table differs from the unscaled one",
        without="--rope-scaling none and no --rope-factor",
    ),
    Feature(
        name="tied_embeddings",
        option="tie_embeddings",
        summary="the output head is the embedding",
        stage="build",
        change_cost="restart",
        requested=lambda c: c.model.tie_embeddings,
        active=lambda p: p.spec.tie_embeddings,
        memory="weights, gradients, moments: one vocabulary matrix less",
        observable="the model has one vocabulary matrix less",
        without="--no-tie-embeddings",
    ),
    Feature(
        name="moe_dropless",
        option="moe_dispatch",
        summary="routed experts that keep every token",
        stage="build",
        change_cost="restart",
        requested=lambda c: _routed(c) and c.moe.moe_dispatch == "dropless",
        active=lambda p: p.spec.moe is not None and p.spec.moe.dispatch == "dropless",
        memory="all experts are stored; routed buffers of tokens x top-k rows",
        observable="metrics carry expert loads; no token is dropped",
        without="--no-use-moe",
    ),
    Feature(
        name="moe_capacity",
        option="moe_dispatch",
        summary="routed experts of bounded capacity that drop what is too much",
        stage="build",
        change_cost="reassemble",
        requested=lambda c: _routed(c) and c.moe.moe_dispatch == "capacity",
        active=lambda p: p.spec.moe is not None and p.spec.moe.dispatch == "capacity",
        memory="all experts are stored; routed buffers grow with capacity_factor",
        observable="the count of dropped tokens follows capacity_factor",
        without="--moe-dispatch dropless",
    ),
    Feature(
        name="loss_free_bias",
        option="moe_bias_update_rate",
        summary="balance experts by a selection bias instead of by a loss alone",
        stage="step",
        change_cost="restart",
        requested=lambda c: _routed(c) and c.moe.moe_bias_update_rate > 0,
        active=lambda p: p.spec.moe is not None and p.spec.moe.bias_update_rate > 0,
        observable="the selection bias of an overloaded expert falls",
        without="--moe-bias-update-rate 0",
    ),
    Feature(
        name="dropout",
        option="dropout",
        summary="zero random parts of both residual branches while training",
        stage="build",
        change_cost="reassemble",
        requested=lambda c: c.model.dropout > 0,
        active=lambda p: p.spec.dropout > 0,
        memory="activations: two masks a block",
        observable="two forwards in training differ, two in evaluation do not",
        without="--dropout 0",
    ),
)
"""In the order of listing."""
