"""How several processes train one model: the mesh of ranks, and the ways to share."""
