"""How several processes train one model: the mesh of ranks, and the ways to share."""

from lumina.parallel import ways

__all__ = ["ways"]
