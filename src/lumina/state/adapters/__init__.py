"""Adapters as files: PEFT's folders read and written, merged into weights."""
