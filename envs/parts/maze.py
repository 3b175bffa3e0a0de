"""Mazes as (rows, columns) bool arrays of walls: reading them, measuring in them, finding ways through them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from lewm_bench.core.errors import UserError, unknown

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


def clearance(walls: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(..., 2) points x, y to (...) distances to the nearest wall; 0 inside one."""
    away = np.abs(center_of(walls, np.argwhere(walls)) - np.asarray(positions)[..., None, :]) - 0.5
    return np.linalg.norm(np.maximum(away, 0), axis=-1).min(-1)


def drawing(walls: np.ndarray) -> str:
    """The lines from which ``parse_maze`` makes the walls."""
    return "\n".join("".join(".#"[int(wall)] for wall in row) for row in walls)


def is_connected(walls: np.ndarray) -> bool:
    """Whether there are free cells and a way from each of them to every other."""
    free = np.argwhere(~walls)
    return bool(len(free)) and bool((cell_distances(walls, *free[0]) >= 0)[~walls].all())


def turned_mazes(walls: np.ndarray) -> dict[str, np.ndarray]:
    """The maze mirrored and turned, as far as that is another one of the same shape; the most similar first."""
    every = {
        "mirrored": walls[:, ::-1],
        "upside down": walls[::-1],
        "turned by 180": walls[::-1, ::-1],
        "turned left": np.rot90(walls),
        "turned right": np.rot90(walls, -1),
        "transposed": walls.T,
        "transposed the other way": walls[::-1, ::-1].T,
    }
    found: dict[str, np.ndarray] = {}
    for name, maze in every.items():
        known = [walls, *found.values()]
        if maze.shape == walls.shape and not any(np.array_equal(maze, other) for other in known):
            found[name] = maze
    return dict(sorted(found.items(), key=lambda item: int((item[1] != walls).sum())))


def altered_mazes(walls: np.ndarray, counts: Sequence[int], rng: np.random.Generator) -> list[np.ndarray]:
    """Mazes in which so many cells are changed, by turns a wall that is taken away and one that is added.

    Each has the changes of the one before, and all are connected. Fewer mazes where there are not as many such cells.
    """
    out, maze, changed = [], walls.copy(), np.zeros(walls.shape, bool)
    for count in counts:
        while changed.sum() < count:
            cell = _next_change(maze, changed, closed=bool(changed.sum() % 2), rng=rng)
            if cell is None:
                return out
            maze[cell], changed[cell] = not maze[cell], True
        out.append(maze.copy())
    return out


def _next_change(
    maze: np.ndarray, changed: np.ndarray, closed: bool, rng: np.random.Generator
) -> tuple[int, int] | None:
    """A cell that is free, if it is to be ``closed``, or a wall, and can be changed; any that can if there is none."""
    inner = np.zeros(maze.shape, bool)
    inner[1:-1, 1:-1] = True
    cells = rng.permutation(np.argwhere(inner & ~changed))
    for cell in sorted(map(tuple, cells.tolist()), key=lambda cell: bool(maze[cell]) == closed):
        trial = maze.copy()
        trial[cell] = not trial[cell]
        if is_connected(trial):
            return cell
    return None


Box = tuple[int, int, int, int]  # top, left, bottom, right in cells, half open


def wall_boxes(walls: np.ndarray) -> list[Box]:
    """Few rectangles of wall that feel like all of it: each straight face of the walls lies on one of them.

    A box per cell would cost time for each, and a ball that slides over the seam of two boxes is pushed back by both.
    """
    faces = wall_faces(walls)
    boxes = sorted({_grow(walls, face, axes) for face in faces for axes in ((0, 1), (1, 0))})
    holds = np.array([[_contains(box, face) for face in faces] for box in boxes])  # (boxes, faces)
    left, chosen = np.ones(len(faces), bool), []
    while left.any():
        best = int((holds & left).sum(1).argmax())
        left &= ~holds[best]
        chosen.append(boxes[best])
    return chosen


def wall_faces(walls: np.ndarray) -> list[Box]:
    """The longest straight runs of wall cells that have free cells beside them, all on the same side."""
    faces = []
    for axis in (0, 1):
        for step in (-1, 1):
            bare = walls & ~np.roll(walls, step, axis)  # outermost cells are walls, so nothing wraps around
            lines = bare if axis == 0 else bare.T
            for i, line in enumerate(lines):
                ends = np.flatnonzero(np.diff(np.concatenate([[0], line, [0]])))
                for j, k in ends.reshape(-1, 2).tolist():
                    faces.append((i, j, i + 1, k) if axis == 0 else (j, i, k, i + 1))
    return faces


def _grow(walls: np.ndarray, box: Box, axes: tuple[int, int]) -> Box:
    """The box stretched inside the walls as far as it goes, along one axis and then along the other."""
    for axis in axes:
        for side, step in ((axis, -1), (axis + 2, 1)):
            while True:
                trial = tuple(edge + step * (k == side) for k, edge in enumerate(box))
                top, left, bottom, right = trial
                if not 0 <= trial[side] <= walls.shape[axis] or not walls[top:bottom, left:right].all():
                    break
                box = trial
    return box


def _contains(outer: Box, inner: Box) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


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
