"""Names of files that are made from names of environments and agents, which may hold anything and be of any length."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

OURS = "lewm_bench/"
LONGEST = 100  # bytes of a stem; with what is appended it stays below 255, and below 143 (ecryptfs) without a digest
DIGEST = 10  # hex digits
PLAIN_AGENT = re.compile(r"[a-z0-9.-]+(_[a-z0-9.-]+)*")


def file_stem(env: str, agent: str) -> str:
    """What files about an agent in an environment begin with: ``PointMaze-UMaze-v0__lewm``.

    Two names never share a stem, not even where a file system takes ``A`` for ``a``: a name stays as it is if it is
    short and one of ours, any other is made safe, cut, and followed by a digest of the whole.
    """
    return _stem(f"{short_name(env)}__{agent}", env, agent)


def agents_stem(agents: Sequence[str], env: str) -> str:
    """The name of a folder about one or several agents in an environment, ``lewm+pldm-TwoRoom-v0``; see ``file_stem``."""
    return _stem(f"{'+'.join(agents)}-{short_name(env)}", env, *agents)


def _stem(text: str, env: str, *agents: str) -> str:
    plain = is_plain_env(env) and all(map(PLAIN_AGENT.fullmatch, agents))
    return text if plain and len(text) <= LONGEST else with_digest(text, "\0".join((env, *agents)))


def env_stem(env: str) -> str:
    """The name of one file about one environment: its own where a file can be called that."""
    name = short_name(env)
    return name if re.fullmatch(r"[A-Za-z0-9.+_-]+", name) and len(name) <= LONGEST else with_digest(name, env)


def short_name(env: str) -> str:
    """An environment's name without its namespace or package: ``their_pkg:TheirMaze-v0`` to ``TheirMaze-v0``."""
    return env.split("/")[-1].split(":")[-1]


def is_plain_env(env: str) -> bool:
    """Whether it is a name of ours, no two of which differ by case alone."""
    return env.startswith(OURS) and re.fullmatch(r"[A-Za-z0-9-]+", env.removeprefix(OURS)) is not None


def with_digest(text: str, whole: str) -> str:
    """``text`` in safe characters, cut, with a digest of ``whole``."""
    safe = re.sub(r"[^A-Za-z0-9.+-]", "_", text)[:LONGEST]
    return f"{safe}-{hashlib.sha256(whole.encode('utf-8', 'surrogatepass')).hexdigest()[:DIGEST]}"
