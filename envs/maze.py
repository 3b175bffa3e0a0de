"""Mazes as (rows, columns) bool arrays of walls: reading them, measuring in them, finding ways through them."""

from __future__ import annotations

from collections import deque

import numpy as np

from lewm_bench.errors import UserError, unknown

BALL_RADIUS = 0.1
_MAPS = {"UMaze": "U_MAZE", "Medium": "MEDIUM_MAZE", "Large": "LARGE_MAZE"}  # names in gymnasium-robotics


def parse_maze(maze: str) -> np.ndarray:
    """A name of gymnasium-robotics or a drawing to (rows, columns) bool, true where there is a wall."""
    if "#" not in maze and "\n" not in maze:
        return _named_maze(maze)
    lines = [line.strip() for line in maze.splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        if wrong := set(line) - set("#. "):
            raise UserError(f"maze line {number}: use '#' for a wall and '.' or ' ' for free, got {min(wrong)!r}")
        if len(line) != len(lines[0]):
            raise UserError(f"maze line {number} has {len(line)} cells, line 1 has {len(lines[0])}")
    walls = np.array([[cell == "#" for cell in line] for line in lines])
    if walls.all():
        raise UserError("the maze has no free cell; draw free cells as '.' or ' '")
    if not (walls[0].all() and walls[-1].all() and walls[:, 0].all() and walls[:, -1].all()):
        raise UserError("the maze is not closed: its first and last line and column must be all '#'")
    cut_off = ~walls & (cell_distances(walls, *np.argwhere(~walls)[0]) < 0)
    if cut_off.any():
        row, column = np.argwhere(cut_off)[0] + 1
        raise UserError(f"the maze is not connected: line {row}, cell {column} cannot be reached from the first cell")
    return walls


def _named_maze(name: str) -> np.ndarray:
    if name not in _MAPS:
        raise unknown("maze", name, _MAPS)
    # The package prints its release notes, about other environments, when it is imported.
    from farama_notifications import notifications

    notifications.pop("gymnasium_robotics", None)
    from gymnasium_robotics.envs.maze import maps

    return np.array([[cell == 1 for cell in row] for row in vars(maps)[_MAPS[name]]])


def cell_of(walls: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(..., 2) x, y to (..., 2) row, column; positions outside count as the nearest cell."""
    rows, columns = walls.shape
    cells = np.stack([np.floor(rows / 2 - positions[..., 1]), np.floor(positions[..., 0] + columns / 2)], -1)
    return np.clip(cells, 0, (rows - 1, columns - 1)).astype(int)


def center_of(walls: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """(..., 2) row, column to (..., 2) x, y."""
    rows, columns = walls.shape
    return np.stack([cells[..., 1] + 0.5 - columns / 2, rows / 2 - cells[..., 0] - 0.5], -1)


def clearance(walls: np.ndarray, position: np.ndarray) -> float:
    """The distance of a point (x, y) to the nearest wall; 0 inside one."""
    away = np.abs(center_of(walls, np.argwhere(walls)) - position) - 0.5
    return float(np.linalg.norm(np.maximum(away, 0), axis=-1).min())


def merge_walls(walls: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Few rectangles (top, left, bottom, right; half open) that together cover exactly the walls; they may overlap.

    Greedy: each time the one that covers most of what is still bare. The simulator pays for every rectangle.
    """
    rows, columns = walls.shape
    inside = np.zeros((rows + 1, columns + 1), int)
    inside[1:, 1:] = walls.cumsum(0).cumsum(1)
    spans = [
        (top, left, bottom, right)
        for top in range(rows)
        for bottom in range(top + 1, rows + 1)
        for left in range(columns)
        for right in range(left + 1, columns + 1)
        if inside[bottom, right] - inside[top, right] - inside[bottom, left] + inside[top, left]
        == (bottom - top) * (right - left)
    ]
    bare, chosen = walls.copy(), []
    while bare.any():
        top, left, bottom, right = max(spans, key=lambda s: bare[s[0] : s[2], s[1] : s[3]].sum())
        bare[top:bottom, left:right] = False
        chosen.append((top, left, bottom, right))
    return chosen


def neighbours(walls: np.ndarray, row: int, column: int) -> list[tuple[int, int]]:
    """The free cells that share a side with one cell."""
    around = ((row - 1, column), (row, column - 1), (row, column + 1), (row + 1, column))
    rows, columns = walls.shape
    return [(r, c) for r, c in around if 0 <= r < rows and 0 <= c < columns and not walls[r, c]]


def cell_distances(walls: np.ndarray, row: int, column: int) -> np.ndarray:
    """(rows, columns) int: steps through free cells to one free cell, -1 where there is no way."""
    steps = np.full(walls.shape, -1)
    steps[row, column] = 0
    queue = deque([(row, column)])
    while queue:
        here = queue.popleft()
        for there in neighbours(walls, *here):
            if steps[there] < 0:
                steps[there] = steps[here] + 1
                queue.append(there)
    return steps
