"""Sums over tokens: a file for each, named like the measure that asks for it."""
