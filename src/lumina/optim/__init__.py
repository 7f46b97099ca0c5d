"""Optimizer, schedules, the finite gate and weight averaging."""
