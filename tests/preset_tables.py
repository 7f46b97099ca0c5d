"""The documents' own figures, for the tests that hold presets against them."""

from __future__ import annotations

# size by the document, use
L1_WORDS = {
    "debug": ("500K", "development"),
    "m70_memory": ("70M", "low memory"),
    "m120_speed": ("120M", "real time"),
    "b1": ("1B", "limited resources"),
    "b3_inference": ("3B", "production inference"),
    "b6_quality": ("6B", "quality generation"),
    "b7": ("7B", "general"),
    "b14": ("14B", "advanced"),
    "b50": ("50B", "large research"),
    "b100": ("100B", "frontier"),
    "b200": ("200B", "enterprise"),
    "b300": ("300B", "research"),
}
# active and total by the document, use
L2_WORDS = {
    "l2:debug": ("~500K active, ~4M total", "development, testing"),
    "debug_200m": ("~200M active, ~6B total", "architecture testing"),
    "l2:b1": ("~1B active, ~8B total", "small experiments"),
    "l2:b7": ("~7B active, ~56B total", "general"),
    "l2:b14": ("~14B active, ~112B total", "high performance"),
    "b30": ("~30B active, ~240B total", "research"),
    "l2:b50": ("~50B active, ~400B total", "enterprise"),
    "l2:b100": ("~100B active, ~800B total", "cutting edge"),
    "l2:b200": ("~200B active, ~1.6T total", "frontier"),
    "l2:b300": ("~300B active, ~2.4T total", "ultra scale"),
}
# memory of the weights in bf16, as the first document gives it
L1_BF16 = {
    "debug": "~10 MB",
    "m70_memory": "~280 MB",
    "m120_speed": "~480 MB",
    "b1": "~2 GB",
    "b3_inference": "~6 GB",
    "b6_quality": "~12 GB",
    "b7": "~14 GB",
    "b14": "~28 GB",
    "b50": "~100 GB",
    "b100": "~200 GB",
    "b200": "~400 GB",
    "b300": "~600 GB",
}
# hardware and adaptive notes by the second document
L2_NOTES = {
    "l2:debug": ("any", "minimal adaptive features"),
    "debug_200m": ("T4, MPS, CPU", "adaptive routing, MoD"),
    "l2:b1": ("3090, M1 Max, A10", "full adaptive features"),
    "l2:b7": ("A100 40, M2 Ultra, 4090", "meta-learning, expert management"),
    "l2:b14": ("A100 80, several A10", "recovery, memory"),
    "b30": ("several A100, H100", "full suite, multi-node"),
    "l2:b50": ("several H100", "distributed"),
    "l2:b100": ("large H100 cluster", "cluster-wide"),
    "l2:b200": ("massive H100 cluster", "meta-learning over nodes"),
    "l2:b300": ("ultra-large cluster", "global"),
}

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
