"""Schedules of the learning rate: a file for each, named like it."""
