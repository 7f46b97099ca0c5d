"""What another process does at the worst moment, done there by a call."""

from __future__ import annotations


def at_first(monkeypatch, owner, name, happens):
    """Let something happen right before the first call of a function."""
    real = getattr(owner, name)

    def call(*arguments, **options):
        monkeypatch.setattr(owner, name, real)
        happens(*arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, call)
