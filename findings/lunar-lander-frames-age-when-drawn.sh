#!/usr/bin/env bash
# gymnasium 1.4.0, LunarLander-v3: a frame depends on how often was drawn before it, so pixels are no function of state and actions.
#
# render() moves the exhaust: it shortens the life of every particle, fades it and removes the old ones, while step() only
# adds some. Two pictures of one state differ, a run that draws every second frame sees other pictures than one that draws
# all, and one that seldom draws keeps every particle. The physics is the same either way. Whoever stores frames of states
# that are visited again (world models, goal images) has to draw with `env.unwrapped.particles` emptied.
# Seen with Python 3.11, Box2D 2.3.10, pygame-ce 2.5.8: the four lines at the end.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export SDL_VIDEODRIVER=dummy
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check "gymnasium[box2d]==1.4.0" "numpy==2.4.6"
"$place/env/bin/python" -W ignore - <<'PY' 2>"$place/noise" | grep -v "^pygame" | tee "$place/seen"
import gymnasium as gym
import numpy as np

thrust = np.array([0.6, 0.7], np.float32)


def after(steps, drawn_each_step):
    env = gym.make("LunarLander-v3", continuous=True, render_mode="rgb_array")
    observation, _ = env.reset(seed=3)
    for _ in range(steps):
        observation, *_ = env.step(thrust)
        for _ in range(drawn_each_step):
            env.render()
    return env, observation


never, often = after(20, 0), after(20, 1)
pictures = [never[0].render(), never[0].render()]
print("two pictures of one state are alike:", np.array_equal(*pictures))
print("the states are alike, drawn or not:", np.array_equal(never[1], often[1]))
print("their pictures are alike:", np.array_equal(pictures[0], often[0].render()))
for env, _ in (never, often):
    env.unwrapped.particles = []
print("their pictures without particles are alike:", np.array_equal(never[0].render(), often[0].render()))
PY
diff "$place/seen" - <<'TXT'
two pictures of one state are alike: False
the states are alike, drawn or not: True
their pictures are alike: False
their pictures without particles are alike: True
TXT
