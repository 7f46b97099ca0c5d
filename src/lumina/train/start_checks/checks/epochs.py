"""A run that ends with its epoch has data with epochs."""

from __future__ import annotations

from lumina.errors import LuminaError
from lumina.train.start_checks.declared import Beginning, register_check


@register_check("epochs", "decided")
def check_epochs(beginning: Beginning) -> None:
    """Refuse to wait for the end of an epoch that nobody knows.

    Raises:
        LuminaError: E002.
    """
    prepared = beginning.prepared
    assert prepared is not None
    if not beginning.config.loading.stop_after_epoch or not prepared.has_data:
        return
    stream = prepared.stream
    if stream.order.epochs_before(stream.start) is None:
        raise LuminaError(
            "E002",
            "stop_after_epoch is set, and the data has no epochs",
            "end the run with --steps or --stop-file",
        )
