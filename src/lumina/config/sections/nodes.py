"""Options of a run on several machines."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class NodesSection(Section):
    """Several machines that train together: the command is started on each of them."""

    num_nodes: int = Field(
        1,
        ge=1,
        description="machines that train together; the same command is started on each "
        "of them, with its own node_rank",
    )
    node_rank: int | None = Field(
        None, ge=0, description="which of num_nodes machines this one is, from 0"
    )
    master_addr: str | None = Field(
        None,
        description="address of the machine with node_rank 0, under which the others "
        "reach it, such as 10.0.0.1",
    )
    master_port: int = Field(
        29500,
        ge=0,
        le=65535,
        description="port of that address at which the machines meet; 0, on the first "
        "machine: a free one, which it names",
    )
