"""ARC tasks as data of a run."""

from __future__ import annotations

from lumina.data.arc import FILES, prepare_arc
from lumina.data.arc_rows import CELLS
from lumina.data.kind import DataKind, Request
from lumina.data.puzzles import PuzzleData, check_puzzles, held_out_share


def _prepare(request: Request) -> PuzzleData:
    check_puzzles(request, CELLS, "ARC has 30 x 30", FILES)
    config = request.config
    train, evaluation, stats = prepare_arc(
        config.data.train_data,
        config.data.eval_data,
        held_out=held_out_share(config),
        augmentations=config.hrm.puzzle_augmentations,
        votes=config.hrm.puzzle_votes,
    )
    score = None if evaluation is None else evaluation.score
    return PuzzleData(train, evaluation, stats, score)


KIND = DataKind(
    "arc",
    _prepare,
    gives="puzzles",
    applies=lambda settings: (
        settings.hrm.use_hrm
        and settings.hrm.hrm_mode == "puzzle"
        and settings.hrm.puzzle == "arc"
    ),
)
