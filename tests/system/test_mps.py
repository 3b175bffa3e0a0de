"""Apple's device: every agent trains, plans and decides with what it has. Pretended, see ``pretended_mps``."""

from __future__ import annotations

from pathlib import Path

import lightning_fabric
import numpy as np
import pytest
import torch
from pretended_mps import CPU, MPS, LackingError, mps_has, pretended
from tiny_agents import NAMES, act, checkpoint_of, setting_of, toy_setting

from lewm_bench.agent import Setting
from lewm_bench.evaluation.episodes import distance_rank_correlation
from lewm_bench.run.registry import agent_family

SLOW = [n for n in NAMES if n not in ("lewm", "gcbc", "sac-her")]


class Fabric(lightning_fabric.Fabric):
    """Runs on the CPU, whose memory the pretended device shares, and moves the model as it would for MPS."""

    def __init__(self, accelerator: str, devices, precision: str) -> None:
        assert accelerator == "mps"
        super().__init__(accelerator="cpu", devices=1, precision=precision)

    def setup(self, module, *optimizers):
        return super().setup(module.to(MPS), *optimizers, move_to_device=False)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return toy_setting(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lightning_fabric, "Fabric", Fabric)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: None)
    with pretended() as kernels:
        yield kernels


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in NAMES])
def test_an_agent_trains_plans_and_decides_on_mps(machine, base: Setting, tmp_path: Path, name: str) -> None:
    setting = setting_of(base, name, device=MPS)
    checkpoint = checkpoint_of(setting, tmp_path)
    loaded = agent_family(name).load(setting, checkpoint)
    decisions = act(loaded, setting, 2, loaded.agent.history)
    assert np.isfinite(decisions).all()
    if loaded.model is not None:
        assert next(loaded.model.parameters()).device.type == "mps"
        assert np.isfinite(distance_rank_correlation(loaded, setting, "test", 20))
    assert (machine.calls > 0) == agent_family(name).trainable


def test_the_pretended_device_refuses_what_mps_lacks(machine) -> None:
    x = torch.eye(3).to(MPS)
    assert x.device == MPS and (x @ x).T.device == MPS and x.cpu().device == CPU and torch.ones(2).device == CPU
    for broken in (
        lambda: torch.linalg.eigvalsh(x),
        lambda: torch.linalg.eigh(x),
        lambda: torch.linalg.svdvals(x),
        lambda: x.double(),
        lambda: x.to(CPU, torch.float64),
        lambda: torch.zeros(2, dtype=torch.float64, device="mps"),
        lambda: x + torch.ones(3),
        lambda: x.numpy(),
        lambda: torch.ones(2).to(MPS).normal_(generator=torch.Generator()),
        lambda: torch.randn(2, generator=torch.Generator(), device=MPS),
    ):
        with pytest.raises(LackingError):
            broken()
    assert x.cpu().double().dtype == torch.float64
    torch.testing.assert_close(torch.linalg.eigvalsh(x.cpu()), torch.ones(3))
    weight = torch.ones(3, requires_grad=True)
    (weight.to(MPS) * x).sum().cpu().backward()
    assert weight.grad.tolist() == [1, 1, 1] and weight.grad.device == CPU


def test_the_list_of_kernels_is_torchs_own() -> None:
    assert mps_has("aten::mm") and mps_has("aten::native_layer_norm") and mps_has("aten::_fused_adamw_")
    assert not mps_has("aten::_linalg_eigh") and not mps_has("mkldnn::_linear_pointwise")
