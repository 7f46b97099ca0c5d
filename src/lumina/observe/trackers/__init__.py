"""Services that show a run elsewhere: TensorBoard, W&B and others, a file each."""

from lumina.observe.trackers.declared import (
    TRACKERS,
    Declared,
    chosen_tracker,
    known_trackers,
    register_tracker,
)
from lumina.observe.trackers.feed import Trackers
from lumina.observe.trackers.tracker import Session, Tracker

__all__ = [
    "TRACKERS",
    "Declared",
    "Session",
    "Tracker",
    "Trackers",
    "chosen_tracker",
    "known_trackers",
    "register_tracker",
]
