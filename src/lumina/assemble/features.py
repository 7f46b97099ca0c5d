"""Features that change the network before its blocks are compiled and sharded."""

from __future__ import annotations

from lumina.features import FEATURES, active_features, find_feature, resolved
from lumina.model.network import Network
from lumina.plan.plan import Plan


def build_features(network: Network, plan: Plan) -> None:
    """Let each feature of a Plan change the network, in the order of registration.

    A change leaves the names of parameters as they are. Features of plug-ins come after
    Lumina's own, so that what they change inside a block is recomputed with the block.

    Args:
        network: on the meta device; no block is compiled yet.
        plan: what is built.

    Raises:
        LuminaError: E005 for a feature of the Plan that no plug-in has registered.
    """
    for name in plan.features:
        find_feature(name)
    for name in active_features(FEATURES, plan):
        build = FEATURES[name].build
        if build is not None:
            resolved(build)(network, plan)
