"""An agent that acts step by step in a Gymnasium environment, as the evaluation lets it act in many at once.

Shapes: T frames of context, h w pixels, X state size, A numbers of an action block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lewm_bench.agent import Loaded, Setting, embed_frames
from lewm_bench.api.attempt import Attempt
from lewm_bench.api.withheld import Withheld
from lewm_bench.core.errors import UserError, short_repr
from lewm_bench.core.formatting import short
from lewm_bench.core.resize import area_mean
from lewm_bench.core.rng import stream
from lewm_bench.core.types import Controller, Goals, Past
from lewm_bench.data.pictures import read_picture
from lewm_bench.evaluation.agent_contract import Place, checked_actions, checked_agent
from lewm_bench.evaluation.history import images, shown_steps
from lewm_bench.planning.cost import Objective, frame_costs, goal_distance


class ActingAgent:
    """A loaded agent: ``start`` an episode with a goal image, then ``act`` on every observation.

    Attributes:
        name: of the agent, with its variant.
        label: its name for people, with every substitute named.
        note: what a table says beside it; empty for most.
        checkpoint: the folder of its weights.
        config: its settings.
        planner: those of its planner, which most policies do not use.
        image_size: pixels of the square frames that it sees.
        frame_skip: environment steps between two frames of its context.
        history: frames of context that it looks at.
    """

    def __init__(self, loaded: Loaded, setting: Setting, checkpoint: Path) -> None:
        checked_agent(loaded.agent, setting.agent)
        self.name, self.label, self.note, self.checkpoint = setting.agent, loaded.label, loaded.note, checkpoint
        self.config, self.planner, self.image_size = setting.config, setting.planner, setting.image_size
        self.history, self.frame_skip = loaded.agent.history, loaded.agent.frame_skip
        self._loaded, self._setting = loaded, setting
        self._place = Place(setting.agent, setting.env_id, [0])
        self._controller: Controller | None = None

    def __repr__(self) -> str:
        return f"<{self.label} ({self.name}) of {self.checkpoint}, trained in {self._setting.env_id}>"

    def start(self, goal: np.ndarray, *, goal_state: np.ndarray | None = None, seed: int = 0) -> None:
        """Begin an episode; the next observation is its first.

        Args:
            goal: the picture of how it should look, (h, w, 3) uint8.
            goal_state: the true state there, (X,), for the agents that read one.
            seed: of the noise that a planner draws; the same episode with the same seed is the same to the last bit.

        Raises:
            UserError: the picture has another shape or type, or the agent needs ``goal_state``.
        """
        goals = Goals(images(self._frame(goal, "the goal")[None]), self._state(goal_state, "start", "goal_state"))
        self._begin(goals, seed)

    def toward(
        self,
        goal: str | Path | np.ndarray,
        *,
        start: Sequence[float] | np.ndarray | None = None,
        seed: int = 0,
        steps: int = 50,
    ) -> Attempt:
        """Act in the environment of the checkpoint toward a picture, which may be any: nobody knows its state.

        Args:
            goal: a file of any size, or (h, w, 3) uint8 of any; resized to what the agent sees.
            start: the true state to begin in, (X,); sampled from the seed if left out.
            seed: of the start, and of the noise that a planner draws.
            steps: environment steps; fewer where the episode is over before.

        Returns:
            Frames, states, actions and latent distances; ``save`` writes a video, a figure and a table.

        Raises:
            UserError: no picture, no state of the environment, or an agent that reads the true state of its goal.
        """
        if steps < 1:
            raise UserError(f"steps must be at least 1, got {steps}")
        env, picture = self._setting.env, self._picture(goal)
        frame = self._put(start, seed)
        unknown_state = Withheld(
            f"{self.label} reads the true state at its goal, which a picture does not tell; take an agent that sees pictures alone"
        )
        self._begin(Goals(images(picture[None]), unknown_state), seed)  # type: ignore[arg-type]
        frames, states, actions = [frame], [env.get_state()], []
        while len(actions) < steps and not env.over(states[-1]):
            actions.append(self.act(frames[-1], state=states[-1]))
            frames.append(env.step(actions[-1])[0])
            states.append(env.get_state())
        found = np.stack(frames), np.stack(states)
        title = f"{self.name} in {short(self._setting.env_id)}"
        return Attempt(title, picture, *found, np.stack(actions), self._distances(*found, picture))

    def _picture(self, given: str | Path | np.ndarray) -> np.ndarray:
        """(image_size, image_size, 3) uint8, whatever its size was."""
        if not isinstance(given, np.ndarray):
            return read_picture(Path(given), self.image_size, self.image_size)
        if given.ndim != 3 or given.shape[2] != 3 or given.dtype != np.uint8 or not given.size:
            raise UserError(f"a goal picture must be a file or (h, w, 3) uint8, got {given.shape} {given.dtype}")
        return area_mean(given, self.image_size, self.image_size)

    def _put(self, start: Sequence[float] | np.ndarray | None, seed: int) -> np.ndarray:
        """Put the environment at the start; its first frame."""
        env = self._setting.env
        if start is None:
            return env.reset(seed=seed)[0]
        state, size = np.array(start, np.float64), len(env.get_state())
        if state.shape != (size,) or not np.isfinite(state).all():
            raise UserError(f"a start in {self._setting.env_id} is {size} finite numbers, got {short_repr(start)}")
        if not env.possible(state.copy()):
            raise UserError(f"nothing can be at {short_repr(start)} in {self._setting.env_id}; choose a free place")
        try:
            return env.reset(seed=seed, options={"start": state})[0]
        except ValueError as error:
            raise UserError(f"{self._setting.env_id} cannot be put into the start: {error}")

    @torch.inference_mode()
    def _distances(self, frames: np.ndarray, states: np.ndarray, goal: np.ndarray) -> np.ndarray | None:
        """(N,) what frames cost by the agent's latents on the way to a goal picture; None for an agent without latents."""
        loaded = self._loaded
        if loaded.model is None:
            return None
        embed = loaded.embed or embed_frames(loaded.model, self._setting.device)
        target = embed(images(goal[None]), states[:1])
        objective = loaded.objective or Objective(lambda z, goal: goal_distance(z, goal)[..., 0], last=True)
        latents = [embed(images(frame[None]), state[None]) for frame, state in zip(frames, states, strict=True)]
        return np.array([float(frame_costs(objective, latent, target)) for latent in latents])

    def _begin(self, goals: Goals, seed: int) -> None:
        self._seen: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}  # frame and state of each step still shown
        self._actions: list[np.ndarray] = []
        self._planned: deque[np.ndarray] = deque()
        rng = stream(seed, "act", self._setting.env_id, self.name)
        self._controller = self._loaded.agent.start(goals, [rng])

    def act(self, observation: np.ndarray, *, state: np.ndarray | None = None) -> np.ndarray:
        """The action to execute now, (action_dim,) float32 in the environment's units and bounds.

        It must be given every frame of the episode, one after the other. The agent decides when the actions of its last
        decision are used up; in between the next of them is returned at once.

        Args:
            observation: the picture of now, (h, w, 3) uint8.
            state: the true state of now, (X,), for the agents that read one.

        Raises:
            UserError: no episode was started, the picture has another shape or type, or the agent needs ``state``.
        """
        if self._controller is None:
            raise UserError(f"{self.name}: start an episode before it acts, agent.start(goal=picture)")
        now = len(self._actions)
        self._seen[now] = self._frame(observation, "the observation"), None if state is None else np.array(state, float)
        self._seen.pop(now - self.frame_skip * (self.history - 1) - 1, None)
        if not self._planned:
            self._planned.extend(self._decide(self._controller))
        action = self._planned.popleft()
        self._actions.append(action)
        return action.copy()

    def _decide(self, controller: Controller) -> np.ndarray:
        """(k, action_dim) actions, at least one."""
        space, step = self._setting.env.action_space, len(self._actions)
        chosen = controller.search(controller.encode(self._past()))
        chosen = checked_actions(chosen, space.shape[0], self._place, step)[0]
        return np.clip(chosen, space.low, space.high).astype(np.float32)

    def _past(self) -> Past:
        """What it may look at now."""
        shown = shown_steps(len(self._actions), self.history, self.frame_skip)
        actions = np.array(self._actions[shown[0] :], np.float32)
        blocks = actions.reshape(1, len(shown) - 1, self.frame_skip * self._setting.action_dim)
        frames, states = zip(*(self._seen[step] for step in shown), strict=True)
        missing = any(state is None for state in states)
        past = Withheld(self._asked("act", "state")) if missing else np.stack(states)[None]
        return Past(images(np.stack(frames)[None]), torch.from_numpy(blocks), past[:, -1], past)

    def _frame(self, given: Any, what: str) -> np.ndarray:
        """(h, w, 3) uint8, a copy."""
        shape = self._setting.env.observation_space.shape
        if not isinstance(given, np.ndarray) or given.shape != shape or given.dtype != np.uint8:
            got = f"{given.shape} {given.dtype}" if isinstance(given, np.ndarray) else short_repr(given)
            raise UserError(
                f"{self.name}: {what} must be a picture {shape} uint8, got {got}; "
                f"make the environment with image_size={self.image_size}, or resize what it draws"
            )
        return given.copy()

    def _state(self, given: np.ndarray | None, method: str, keyword: str) -> Any:
        """(1, X) float64, or what says that there is none."""
        return Withheld(self._asked(method, keyword)) if given is None else np.array(given, np.float64)[None]

    def _asked(self, method: str, keyword: str) -> str:
        return f"{self.label} reads the environment's true state; give it: agent.{method}(..., {keyword}=info[{keyword!r}])"
