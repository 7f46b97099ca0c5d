"""The services that show the run have their packages."""

from __future__ import annotations

from lumina.observe.trackers import chosen_tracker
from lumina.train.start_checks.declared import Beginning, register_check


@register_check("trackers", "settings")
def check_trackers(beginning: Beginning) -> None:
    """Refuse trackers that there are not, or whose package is missing.

    Raises:
        LuminaError: E005 or E003.
    """
    for name in beginning.config.tracking.trackers:
        chosen_tracker(name).require()
