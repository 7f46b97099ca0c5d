"""Settings that follow from the weights and the data: rows' length, and a recipe."""

from __future__ import annotations

from lumina.config import Config
from lumina.data.kind import Data, Rows
from lumina.parallel.sizes import Sizes
from lumina.plan.context import context_ranks
from lumina.plan.context_tiers import check_tier, with_tier
from lumina.plan.environment import Environment
from lumina.plan.fine_tuning import fine_tuning
from lumina.plan.row_length import with_row_length
from lumina.plan.shape import resolve_spec
from lumina.train.starting_weights import StartingWeights


def with_length(
    config: Config,
    environment: Environment,
    start: StartingWeights,
    data: Data | None,
    *,
    resumed: bool,
    world_size: int,
) -> Config:
    """The settings with the length of rows, where a tier or a fine-tuning leaves it.

    Args:
        config: the settings.
        environment: the machine.
        start: what the run begins with.
        data: what is trained on; None while planning for a model alone.
        resumed: the run goes on, and has its length.
        world_size: processes that train.

    Raises:
        LuminaError: those of `check_tier`, `with_tier` and `with_row_length`.
    """
    tokenizer = data.tokenizer if data else None
    vocab_size = tokenizer.vocab_size if tokenizer else None
    if config.system.tier != "none":
        if resumed:
            check_tier(config)
            return config
        return with_tier(
            config,
            environment,
            model=start.weights.spec if start.weights else None,
            vocab_size=vocab_size,
            world_size=world_size,
        )
    weights = start.tuned
    if weights is None or not start.length_open:
        return config
    if weights.spec.pos_encodings == "learned":
        return config  # the table of positions is as long as a row
    return with_row_length(
        config,
        environment,
        weights.spec,
        data.document_lengths() if data else None,
        vocab_size=vocab_size,
        world_size=world_size,
    )


def with_recipe(
    config: Config, start: StartingWeights, rows: Rows | None, world_size: int
) -> Config:
    """The settings with those of a fine-tuning, where a language model is tuned.

    Args:
        config: the settings; of a run without phases, which have values of their own.
        start: what the run begins with.
        rows: of the data; None while planning for a model alone.
        world_size: processes that train.
    """
    if start.tuned is None:
        return config
    spec = resolve_spec(config, rows.vocab_size if rows else None)
    shared, _ = context_ranks(config, spec, world_size)
    return fine_tuning(
        config,
        spec,
        rows_per_epoch=rows.sequence.rows_per_epoch if rows else None,
        data_ranks=Sizes.of(world_size, sequence=shared).data,
    )
