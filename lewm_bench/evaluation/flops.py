"""Floating-point operations of planning, counted by torch while they run: matrix products, convolutions, attention.

Shapes: B episodes planned together, T frames of context, A numbers of an action block, X state size.
"""

from __future__ import annotations

import logging
import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lewm_bench.agent import Setting
from lewm_bench.core.rng import stream
from lewm_bench.core.torch_rng import confined
from lewm_bench.core.types import Agent
from lewm_bench.evaluation.episodes import context_lengths, goals_of
from lewm_bench.evaluation.history import History
from lewm_bench.evaluation.protocol import Pairs
from lewm_bench.planning.fast.linears import has_int8
from lewm_bench.system.faults import result_or_error

logger = logging.getLogger(__name__)


def counter() -> FlopCounterMode:
    """What counts the operations inside a ``with``, also those that torch has no formula for and would count as none:
    the packed kernels, and on a CPU attention, evaluated encoder layers and LSTM (findings/flop-counter-misses-cpu-attention.sh).
    """
    return FlopCounterMode(display=False, custom_mapping=_formulas())


@cache
def _formulas() -> dict[Any, Any]:
    found: dict[Any, Any] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        torch.ops.aten._native_multi_head_attention: _self_attention_flops,
        torch.ops.aten._transformer_encoder_layer_fwd: _encoder_layer_flops,
        torch.ops.aten.mkldnn_rnn_layer: _recurrent_flops,
    }
    if torch.backends.mkldnn.is_available():
        found[torch.ops.mkldnn._linear_pointwise] = _linear_flops
    if has_int8():
        found[torch.ops.onednn.qlinear_pointwise] = _linear_flops
    return found


def _linear_flops(x: tuple[int, ...], *_: Any, out_shape: tuple[int, ...] = (), **__: Any) -> int:
    return 2 * int(np.prod(x)) * out_shape[-1]


def _attention_flops(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *_: Any, **__: Any) -> int:
    batch, heads, queries, size = q
    return 2 * batch * heads * queries * k[-2] * (size + v[-1])


def _self_attention_flops(query: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Of nn.MultiheadAttention in one operation, which a CPU has for self-attention only."""
    batch, tokens, width = query
    return 2 * batch * tokens * width * (4 * width + 2 * tokens)


def _encoder_layer_flops(x: tuple[int, ...], *arguments: Any, **__: Any) -> int:
    """Of nn.TransformerEncoderLayer in one operation; the 14th argument behind the tokens is the first MLP weight."""
    batch, tokens, width = x
    return _self_attention_flops(x) + 2 * batch * tokens * 2 * width * arguments[13][0]


def _recurrent_flops(
    x: tuple[int, ...], weight: tuple[int, ...], recurrent: tuple[int, ...], *_: Any, **__: Any
) -> int:
    steps, batch, _ = x
    return 2 * steps * batch * (math.prod(weight) + math.prod(recurrent))


def flops_per_step(agent: Agent, setting: Setting, pairs: Pairs, budget: int, *, real_history: bool) -> float | None:
    """Operations of planning per executed environment step, as its time is counted: all decisions over ``budget`` steps.

    One whole decision is counted and taken for all: from the first pair's start, by itself, without encoding the goal.
    None for an agent that has torch compute nothing, one whose rollout is compiled, which hides what it does, and one
    that cannot be counted: no evaluation fails for it.
    """
    if setting.planner.compile:
        return None
    found = result_or_error(lambda: _decision(agent, setting, pairs, real_history))
    if isinstance(found, Exception):
        logger.warning("%s: its floating-point operations cannot be counted: %s", setting.agent, found)
        return None
    flops, steps = found
    return flops * math.ceil(budget / steps) / budget if flops else None


def _decision(agent: Agent, setting: Setting, pairs: Pairs, real_history: bool) -> tuple[int, int]:
    """Operations of one decision, and the environment steps that it is executed for.

    It draws from a stream of its own, and leaves all others and the generators of libraries as they are.
    """
    (length,) = context_lengths(setting.dataset, pairs, agent, real_history)[:1]
    history = History(setting.env, setting.dataset, pairs.start_row[:1], int(length), (agent.history, agent.frame_skip))
    with confined(setting.seed, "flops"):
        controller = agent.start(goals_of(setting.dataset, pairs, [0]), [stream(setting.seed, "flops plan")])
        past = history.past()
        with counter() as counted:
            chosen = controller.search(controller.encode(past))
    return counted.get_total_flops(), chosen.shape[1]
