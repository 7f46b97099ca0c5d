"""Features of the network's shape."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Feature


def _routed(config: Any) -> bool:
    return bool(config.moe.use_moe)


def _bounded(config: Any) -> bool:
    """Whether an expert takes so many tokens and no more."""
    moe = config.moe
    if moe.overflow != "none":
        return bool(moe.overflow != "loose")
    return bool(moe.moe_dispatch == "capacity")


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
        requested=lambda c: _routed(c) and not _bounded(c),
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
        requested=lambda c: _routed(c) and _bounded(c),
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
        name="shared_experts",
        option="moe_shared_experts",
        summary="experts that every token goes to, beside the routed ones",
        stage="build",
        change_cost="restart",
        requested=lambda c: _routed(c) and c.moe.moe_shared_experts > 0,
        active=lambda p: p.spec.moe is not None and p.spec.moe.shared_experts > 0,
        memory="weights, gradients, moments, activations of one more SwiGLU a layer",
        observable="the output of a routed layer has the shared SwiGLU added",
        without="--moe-shared-experts 0",
    ),
    Feature(
        name="expert_dropout",
        option="expert_dropout",
        summary="hide experts from tokens at random, against a collapsed router",
        stage="step",
        change_cost="live",
        requested=lambda c: _routed(c) and c.moe.expert_dropout > 0,
        active=lambda p: p.spec.moe is not None and p.spec.moe.expert_dropout > 0,
        observable="tokens of the favourite experts spread over the others",
        without="--expert-dropout 0",
    ),
    Feature(
        name="router_jitter",
        option="router_jitter_noise",
        summary="noise on the router's logits while training",
        stage="step",
        change_cost="live",
        requested=lambda c: _routed(c) and c.moe.router_jitter_noise > 0,
        active=lambda p: p.spec.moe is not None and p.spec.moe.jitter > 0,
        observable="two forwards in training route differently, two in evaluation not",
        without="--router-jitter-noise 0",
    ),
    Feature(
        name="named_expert",
        option="expert_id",
        summary="train one expert alone, added to a frozen model",
        stage="build",
        change_cost="restart",
        requested=lambda c: c.train.expert_id is not None,
        active=lambda p: p.spec.moe is not None and p.spec.moe.trained > 0,
        memory="moments and gradients of the routed experts alone",
        observable="no number of the model it was added to changes",
        without="no --expert-id",
    ),
    Feature(
        name="mixture_of_depths",
        option="use_mod",
        summary="blocks that only a share of the tokens of each row goes through",
        stage="build",
        change_cost="restart",
        requested=lambda c: c.mod.use_mod,
        active=lambda p: p.spec.mod is not None,
        memory="activations: those of the chosen tokens; static mode keeps all",
        observable="metrics carry the share of tokens chosen; executed operations fall",
        without="--no-use-mod",
    ),
    Feature(
        name="mixture_of_recursions",
        option="use_mor",
        summary="some tokens go through the middle blocks again",
        stage="build",
        change_cost="restart",
        requested=lambda c: c.mor.use_mor,
        active=lambda p: p.spec.mor is not None,
        memory="activations: further passes of the middle blocks, fewer tokens in each",
        observable="metrics carry the share of tokens in each pass",
        without="--no-use-mor",
    ),
    Feature(
        name="several_tasks",
        option="tasks",
        summary="several kinds of data, a head for each on one backbone",
        stage="build",
        change_cost="restart",
        requested=lambda c: bool(c.data.tasks),
        active=lambda p: p.spec.tasks is not None,
        memory="weights, gradients, moments: a vocabulary matrix for each task",
        observable="metrics carry each task's loss; logits differ by task",
        without="--train-data in place of --tasks",
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
