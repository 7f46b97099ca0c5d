"""What is done when memory runs out: the step is taken again, one rung further down.

A further rung is a subclass of `Rung` (rung.py) under `@register_rung`, in a file of
`rungs/` with its name.
"""
