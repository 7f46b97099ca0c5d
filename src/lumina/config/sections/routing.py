"""The option of how all routers of a model choose."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class RoutingSection(Section):
    """Routing whose shapes do not depend on the data."""

    describes_model = True

    static_routing_mode: bool = Field(
        False,
        description="Mixture of Depths and of Recursions compute every token, softly "
        "weighted, as with mod_mode and mor_mode static; experts must then have shapes "
        "that no token changes; for CUDA graphs, profiling and debugging",
    )
