"""Between ARC grids and rows of tokens, in any turn, naming of colours and place.

A row is a field of 30 x 30 tokens: 0 where there is nothing, 2 to 11 the colours 0 to 9
of the grid, and 1 along its lower and right edge, as sapientinc/HRM lays it out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumina.data.arc_tasks import COLOURS, LARGEST, Grid

CELLS = LARGEST * LARGEST
EDGE, FIRST_COLOUR = 1, 2
VOCABULARY = COLOURS + FIRST_COLOUR
"""Tokens: 0 nothing, 1 the end of the grid, 2 to 11 the colours."""


@dataclass(frozen=True)
class Grids:
    """Many grids of different sizes.

    Attributes:
        cells: [N, 30, 30] uint8 colours, each grid in the upper left corner.
        sizes: [N, 2] int64 rows and columns.
    """

    cells: NDArray[np.uint8]
    sizes: NDArray[np.int64]

    @staticmethod
    def of(grids: list[Grid]) -> Grids:
        """Some grids."""
        cells = np.zeros((len(grids), LARGEST, LARGEST), dtype=np.uint8)
        for field, grid in zip(cells, grids, strict=True):
            field[: grid.shape[0], : grid.shape[1]] = grid
        sizes = np.array([g.shape for g in grids], dtype=np.int64).reshape(-1, 2)
        return Grids(cells, sizes)

    def __getitem__(self, index: int) -> Grid:
        rows, columns = self.sizes[index]
        return self.cells[index, :rows, :columns]

    def sizes_turned(
        self, chosen: NDArray[np.int64], turns: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """[B, 2] rows and columns of some grids after their turns."""
        sizes = self.sizes[chosen]
        return np.where((turns & 4 > 0)[:, None], sizes[:, ::-1], sizes)

    def tokens(
        self,
        chosen: NDArray[np.int64],
        turns: NDArray[np.uint8],
        colours: NDArray[np.uint8],
        corners: NDArray[np.int64],
    ) -> NDArray[np.uint8]:
        """[B, 900] tokens of some grids.

        Args:
            chosen: [B] which ones.
            turns: [B] see `turned`.
            colours: [B, 10] the new colour of each colour.
            corners: [B, 2] row and column that the upper left cell comes to.
        """
        line = np.arange(LARGEST)
        places = line[None] - corners[:, :, None]  # [B, 2, 30]
        i, j = places[:, 0, :, None], places[:, 1, None, :]
        rows, columns = self.sizes_turned(chosen, turns).T[:, :, None, None]
        below, beside = (i >= 0) & (i < rows), (j >= 0) & (j < columns)
        transposed = (turns & 4 > 0)[:, None, None]
        a, b = np.where(transposed, j, i), np.where(transposed, i, j)
        height, width = self.sizes[chosen].T[:, :, None, None]
        a = np.where((turns & 1 > 0)[:, None, None], height - 1 - a, a)
        b = np.where((turns & 2 > 0)[:, None, None], width - 1 - b, b)
        inside = below & beside
        cell = self.cells[
            chosen[:, None, None], np.where(inside, a, 0), np.where(inside, b, 0)
        ]
        painted = colours[np.arange(len(chosen))[:, None, None], cell] + FIRST_COLOUR
        edge = ((i == rows) & beside) | ((j == columns) & below)
        field = np.where(inside, painted, np.where(edge, EDGE, 0))
        return field.reshape(-1, CELLS).astype(np.uint8)


def grid_of(row: NDArray[np.uint8]) -> Grid:
    """The grid that a predicted row [900] shows in its upper left corner.

    It is the largest rectangle from the corner that holds nothing but colours; a row
    that shows none gives a grid without cells.
    """
    field = row.reshape(LARGEST, LARGEST)
    coloured = (field >= FIRST_COLOUR) & (field < VOCABULARY)
    runs = np.cumprod(coloured, axis=1).sum(axis=1)
    widths = np.minimum.accumulate(runs)
    rows = int(np.argmax(widths * np.arange(1, LARGEST + 1))) + 1
    width = int(widths[rows - 1])
    return (field[: rows if width else 0, :width] - FIRST_COLOUR).astype(np.uint8)
