"""``train.precision``: what it says is what a loss computes in, and every agent trains in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lewm_bench.run.benchmarks import find_file, load
from lewm_bench.run.keys import model_spec
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import resolve
from lewm_bench.run.stages import Run, dataset_of, setting_of
from lewm_bench.system.store import Store
from lewm_bench.train.loop import TrainConfig, train

CPU = torch.device("cpu")
MIXED = (
    "lewm",
    "fast-lewm",
    "rc-aux",
    "vlwm",
    "pldm",
    "jepa-ema",
    "delta-jepa",
    "dino-wm",
    "gcbc",
    "gcivl",
    "gciql",
    "h-jepa",
    "hwm",
)


class Seen(nn.Module):
    """Remembers what its loss computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.types = nn.Linear(4, 4), set[torch.dtype]()

    def loss(self, batch: tuple[torch.Tensor], step) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        y = self.layer(batch[0])
        self.types.add(y.dtype)
        return y.float().square().mean(), {}


@pytest.mark.parametrize(("precision", "computed"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_a_loss_computes_in_it(tmp_path: Path, precision: str, computed: torch.dtype) -> None:
    model, config = Seen(), TrainConfig(steps=3, batch_size=2, precision=precision)
    train(model, lambda index: (torch.ones(2, 4),), config, seed=0, device=CPU, folder=tmp_path, progress=False)
    assert model.types == {computed}
    assert model.layer.weight.dtype == model.layer.weight.grad.dtype == torch.float32


def smoke(cache: Path, agent: str, precision: str) -> tuple[Run, object]:
    overrides = [
        f"{agent}.train.precision={precision}",
        f"{agent}.train.steps=3",
        f"{agent}.train.on_collapse=continue",
    ]
    if agent == "dino-wm":
        overrides.append("dino-wm.local.train.steps=3")
    suite = resolve(load(find_file(None)), "smoke", "quick", agents=[agent], overrides=overrides)
    run = Run(suite, Store(cache), cache / "out", CPU, False)
    job = suite.jobs[0]
    return run, setting_of(run, job, *dataset_of(run, job.env))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("agent", MIXED)
def test_every_agent_trains_in_bfloat16(cache: Path, tmp_path: Path, agent: str) -> None:
    """To finite losses near those of float32; steps of a different size would show at once."""
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        _, setting = smoke(cache, agent, precision)
        losses[precision] = agent_family(agent).train(setting, tmp_path / precision).columns["loss"]
    assert losses["bf16-mixed"] != losses["32-true"]
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.1)


def test_weights_from_when_it_had_no_effect_are_not_taken_for_it(cache: Path) -> None:
    family = agent_family("gcbc")
    specs = [model_spec(smoke(cache, "gcbc", precision)[1], family) for precision in ("32-true", "bf16-mixed")]
    assert "autocast" not in specs[0] and specs[1]["autocast"] == 1
