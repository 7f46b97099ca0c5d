"""The network that a configuration describes."""

from __future__ import annotations

from lumina.config import Config
from lumina.model.build import DEFAULT_LOSS_CHUNK_BYTES, build_network
from lumina.model.network import Network
from lumina.model.registry import load_plugins
from lumina.plan.kernels import kernel_family
from lumina.plan.shape import resolve_spec
from lumina.plan.transfer import first_factors, transfer_of


def build_model(config: Config) -> Network:
    """The network a configuration describes, with its initial weights, on the CPU.

    The vocabulary is `vocab_size` where it is set; see `lumina.load` for trained ones.
    """
    load_plugins(config.get("plugins"))
    backend = config.get("attention")
    spec = resolve_spec(config, None)
    network = build_network(
        spec,
        attention="sdpa" if backend == "auto" else kernel_family(backend),
        loss_chunk_bytes=config.get("loss_chunk_bytes") or DEFAULT_LOSS_CHUNK_BYTES,
        seed=config.get("seed"),
    )
    for name, factor in first_factors(transfer_of(config, spec), spec).items():
        network.get_parameter(name).data.mul_(factor)
    return network
