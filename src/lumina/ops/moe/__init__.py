"""Routed experts: what happens between the router's choice and the summed output.

`reference` is the plain loop over experts and the oracle of the others; `grouped` keeps
every token (dropless); `capacity` gives every expert a fixed number of places.
"""
