"""How data is loaded: which options of it go together, and with which data."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.config.source_entries import source_paths
from lumina.features import reason_lacking
from lumina.host_memory import host_memory_bytes
from lumina.quantities import byte_size

OF_TEXT = ("data_loading", "packing", "linear_dataset", "dataset_start_offset")
"""Options that only data of text has."""


def check(settings: Settings) -> None:
    """Refuse ways of loading that contradict each other, or that the data has not.

    Raises:
        LuminaError: E002.
    """
    loading = settings.loading
    if loading.dataset_start_offset and not loading.linear_dataset:
        refuse(
            f"dataset_start_offset {loading.dataset_start_offset} counts documents in "
            "the order of the files, and they are shuffled",
            "add --linear-dataset, or leave the offset out",
        )
    if loading.pin_memory and settings.system.device == "cpu":
        refuse(
            "pin_memory is for copies to a GPU, and device is cpu",
            "leave --pin-memory out, or use another --device",
        )
    if loading.iterate and settings.is_chosen("epochs"):
        refuse(
            f"iterate goes on until the last step, and epochs are "
            f"{settings.train.epochs:g}",
            "keep one of the two; --steps ends a run that iterates",
        )
    if loading.iterate and settings.train.steps is None:
        refuse(
            "iterate begins the data again and again, so that nothing says how long "
            "the run and its learning rate's schedule are",
            "name --steps; --stop-file PATH ends the run earlier, where you create it",
        )
    if loading.data_loading == "streaming" and not loading.packing:
        refuse(
            "streamed text is packed, and packing is off",
            "use --data-loading sharded, or leave --no-packing out",
        )
    other = _other_data(settings)
    for leaf in OF_TEXT if other else ():
        if leaf == "data_loading" and source_paths(settings):
            continue  # of each source
        if not settings.is_default(leaf):
            refuse(
                f"{leaf} {settings.get(leaf)} is for text, and {other}",
                f"leave {leaf} out",
            )


def _other_data(settings: Settings) -> str | None:
    """What the data is where it is not text, as a clause."""
    lacks = reason_lacking(settings, "loading_of_text")
    return lacks or ("the data is a mixture" if source_paths(settings) else None)


def advice(settings: Settings) -> list[str]:
    """Advice where a shard is more text than memory holds at a time."""
    size, memory = settings.loading.shard_size_mb * 10**6, host_memory_bytes()
    if settings.loading.data_loading in ("memory", "streaming") or size <= memory:
        return []
    return [
        f"shard_size_mb {settings.loading.shard_size_mb} is more than this machine's "
        f"{byte_size(memory)} of memory: a run that is killed has a whole shard to "
        "tokenise again; the default is 256"
    ]


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of loading without effect, and why."""
    loading, unused = settings.loading, {}
    if loading.prefetch_threads == 0:
        unused["prefetch_factor"] = "prefetch_threads is 0"
    if loading.data_loading != "auto":
        unused["streaming_threshold_gb"] = "data_loading is named"
    if loading.data_loading in ("memory", "sharded"):
        unused["shuffle_buffer"] = f"data_loading is {loading.data_loading}"
    if loading.data_loading in ("memory", "streaming"):
        unused["shard_size_mb"] = f"data_loading is {loading.data_loading}"
    return unused


RULE = Rule(check=check, advice=advice, without_effect=without_effect)
