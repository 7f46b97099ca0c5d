"""Codes of few bits that are chosen by looking at inputs (GPTQ, arXiv:2210.17323)."""
