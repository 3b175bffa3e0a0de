"""What an agent did on its way to a picture. A picture has no state, so nobody says whether it arrived.

Shapes: T steps, h w pixels, X state size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lewm_bench.data.videos import FRAME_MS, comparison_video
from lewm_bench.report.figures.attempt import latent_distance
from lewm_bench.report.figures.drawing import png
from lewm_bench.system.files import make_folder, write_bytes

VIDEO, FIGURE, TABLE = "video.gif", "distance.png", "distance.csv"


@dataclass(frozen=True)
class Attempt:
    """Everything that happened, and the latent distance of each frame to the goal picture.

    Attributes:
        title: who acted where.
        goal: the picture as the agent saw it, (h, w, 3) uint8.
        frames: (T + 1, h, w, 3) uint8; frame 0 is the start.
        states: (T + 1, X) true states.
        actions: (T, action_dim).
        distances: (T + 1,) mean squared differences of latents to the goal's; None for an agent without latents.
    """

    title: str
    goal: np.ndarray = field(repr=False)
    frames: np.ndarray = field(repr=False)
    states: np.ndarray = field(repr=False)
    actions: np.ndarray = field(repr=False)
    distances: np.ndarray | None = field(repr=False)

    def __str__(self) -> str:
        """What there is to tell, in a line."""
        steps = f"{self.title}, {len(self.actions)} steps"
        if self.distances is None:
            return f"{steps}: it has no latents, so there is no distance to the picture; look at the video"
        first, least, last = self.distances[0], self.distances.min(), self.distances[-1]
        return (
            f"{steps}: latent distance {first:.3g} at the start, smallest {least:.3g} at step {self.distances.argmin()}, "
            f"{last:.3g} at the end"
        )

    def save(self, folder: str | Path) -> list[Path]:
        """Write the video and, of an agent with latents, the figure and the table; the paths of what was written."""
        folder = Path(folder)
        make_folder(folder)
        written = {VIDEO: self._video()}
        if self.distances is not None:
            written |= {FIGURE: png(latent_distance(self.distances, self.title)), TABLE: self._table().encode()}
        for name, content in written.items():
            write_bytes(folder / name, content)
        return [folder / name for name in written]

    def _video(self) -> bytes:
        told = ["" if self.distances is None else f"   latent distance {d:.3g}" for d in self._each_distance()]
        lines = [f"step {step}/{len(self.actions)}{text}" for step, text in enumerate(told)]
        panels = {"goal": np.broadcast_to(self.goal, self.frames.shape), "now": self.frames}
        return comparison_video(panels, self.title, lines, FRAME_MS)

    def _table(self) -> str:
        rows = [f"{step},{float(distance)!r}" for step, distance in enumerate(self._each_distance())]
        return "\n".join(["step,latent_distance", *rows, ""])

    def _each_distance(self) -> np.ndarray:
        return np.zeros(len(self.frames)) if self.distances is None else self.distances
