"""The contract of an agent: what it is built from, trained with, and asked for."""

from lewm_bench.agent.family import (
    AgentConfig,
    C,
    Family,
    Loaded,
    Setting,
    TrainedWorldModel,
    arithmetic_note,
    card_of,
    clip_batches,
    load_agent,
    ready_to_act,
    recipe_of,
    train_module,
)
from lewm_bench.planning.agent import (
    Embed,
    Encoded,
    LatentController,
    PlanningAgent,
    default_rollout,
    embed_frames,
    primitive_actions,
)

__all__ = [
    "AgentConfig",
    "C",
    "Embed",
    "Encoded",
    "Family",
    "LatentController",
    "Loaded",
    "PlanningAgent",
    "Setting",
    "TrainedWorldModel",
    "arithmetic_note",
    "card_of",
    "clip_batches",
    "default_rollout",
    "embed_frames",
    "load_agent",
    "primitive_actions",
    "ready_to_act",
    "recipe_of",
    "train_module",
]
