"""What somebody's agent or environment hands over is held to its contract before it is used."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from toy_env import ToyEnv

from lewm_bench.agent import Loaded, load_agent
from lewm_bench.agents.scripted import NOOP
from lewm_bench.core.env import require_spaces
from lewm_bench.core.errors import UserError
from lewm_bench.data.collect import _drawn
from lewm_bench.run.keys import outside_of


class Steerer:
    """The smallest agent."""

    def __init__(self, history=1, frame_skip=5):
        self.history, self.frame_skip = history, frame_skip

    def start(self, goals, rngs):
        raise NotImplementedError


def loading(loaded):
    """A family that loads just this."""
    return SimpleNamespace(load=lambda setting, checkpoint: loaded)


SETTING = SimpleNamespace(agent="theirs:MINE")


@pytest.mark.parametrize(
    "loaded, says",
    [
        (None, "not a lewm_bench.agent.Loaded"),
        (np.zeros(3), "not a lewm_bench.agent.Loaded"),
        (Loaded(Steerer(), None), "must be text"),
        (Loaded(Steerer(), "x", note=None), "must be text"),
        (Loaded(None, "x"), "has no history, frame_skip or start"),
        (Loaded(Steerer(history=0), "x"), "history must be a whole number"),
        (Loaded(Steerer(frame_skip="5"), "x"), "frame_skip must be a whole number"),
    ],
)
def test_what_is_not_a_loaded_agent(loaded, says):
    with pytest.raises(UserError, match=f"theirs:MINE.*{says}") as caught:
        load_agent(loading(loaded), SETTING, None)
    assert str(caught.value).isprintable()


def test_weights_from_elsewhere_are_told_in_text():
    family = SimpleNamespace(outside=lambda setting: np.zeros(2))
    with pytest.raises(UserError, match="theirs:MINE: outside must return text"):
        outside_of(SETTING, family)
    assert outside_of(SETTING, NOOP) == ""


def test_what_is_one():
    loaded = Loaded(Steerer(), "x")
    assert load_agent(loading(loaded), SETTING, None) is loaded
    setting = SimpleNamespace(env=ToyEnv(), config=SimpleNamespace(frame_skip=5), agent="noop")
    assert load_agent(NOOP, setting, None).label


@pytest.mark.parametrize(
    "name, space",
    [
        ("action_space", None),
        ("action_space", gym.spaces.Discrete(3)),
        ("action_space", gym.spaces.Box(-1, 1, (2, 2))),
        ("observation_space", 5),
        ("observation_space", gym.spaces.Box(0, 255, (8, 8), np.uint8)),
        ("observation_space", gym.spaces.Box(0, 255, (8, 8, 1), np.uint8)),
    ],
)
def test_spaces_that_nothing_can_be_collected_in(name, space):
    env = ToyEnv()
    require_spaces(env, "Toy")
    setattr(env, name, space)
    with pytest.raises(UserError, match=f"Toy: {name}"):
        require_spaces(env, "Toy")


@pytest.mark.parametrize("frames", [None, np.zeros((2, 16, 16, 3)), np.zeros((1, 16, 16, 3), np.uint8), [1]])
def test_frames_that_are_none(frames):
    env = ToyEnv()
    states = np.zeros((2, 2))
    assert _drawn(env, states).shape == (2, 16, 16, 3)
    env.render_states = lambda states: frames
    with pytest.raises(UserError, match="render_states must return uint8"):
        _drawn(env, states)
