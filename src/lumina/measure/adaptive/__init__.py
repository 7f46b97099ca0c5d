"""The benchmark of adaptive training: population, arms, runs, scores.

Nothing here knows a trainer: one takes part through an `Adapter`
(`lumina.measure.adaptive.adapter`). What is counted, and why, is said in
`docs/adaptive-benchmark.md`.
"""
