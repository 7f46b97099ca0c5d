"""The documents' own figures, for the tests that hold presets against them."""

from __future__ import annotations

# hidden, layers, heads, kv heads, context, experts
L1 = {
    "debug": (128, 2, 2, 1, 256, 4),
    "m70_memory": (768, 12, 12, 4, 1024, 8),
    "m120_speed": (768, 16, 12, 4, 1024, 8),
    "b1": (1024, 12, 16, 4, 2048, 8),
    "b3_inference": (2560, 24, 20, 10, 2048, 16),
    # The document has 10 key/value heads, which do not divide 25 heads.
    "b6_quality": (3200, 32, 25, 5, 4096, 32),
    "b7": (2048, 22, 16, 8, 4096, 16),
    "b14": (2560, 28, 20, 10, 4096, 32),
    "b50": (5120, 40, 40, 10, 128000, 64),
    "b100": (7168, 48, 56, 14, 200000, 96),
    "b200": (8192, 56, 64, 16, 1000000, 128),
    "b300": (9216, 64, 72, 18, 204800, 144),
}
