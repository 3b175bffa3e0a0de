"""The training loop: its schedule, and that a kill changes nothing."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lewm_bench.core.errors import TrainingFailed
from lewm_bench.core.rng import stream
from lewm_bench.train import loop
from lewm_bench.train.loop import (
    Step,
    TrainableModule,
    TrainConfig,
    TrainingLog,
    learning_rate,
    make_optimizer,
    policy_error,
    raise_if_mean_action,
    train,
)

CPU = torch.device("cpu")
CONFIG = TrainConfig(steps=13, batch_size=4, learning_rate=1e-2, warmup=0.2, log_every=3, save_every=4)


class Model(nn.Module):
    """Regression with dropout, batch statistics and noise from the step: everything that a resume could lose."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 1, bias=False)
        )
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
        self.seen: list[Step] = []

    def loss(self, batch, step: Step):
        assert self.training
        self.seen.append(step)
        x, y = batch
        noise = 0.1 * torch.randn(x.shape, generator=step.generator)
        error = (self.net(x + noise) - y).square().mean()
        return error * (1 + step.progress), {"error": error}


def model(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model()


def batch(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.from_numpy(stream(0, "batch", index).standard_normal((4, 3), np.float32))
    return x, x.sum(1, keepdim=True)


def run(m: Model, folder: Path, batches=batch, config: TrainConfig = CONFIG, seed: int = 0) -> TrainingLog:
    return train(m, batches, config, seed=seed, device=CPU, folder=folder, progress=False)


class Killed(Exception):
    pass


def killed_at(index: int):
    def batches(i: int):
        if i == index:
            raise Killed
        return batch(i)

    return batches


def assert_equal(a: nn.Module, b: nn.Module) -> None:
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name


def test_the_schedule_is_a_warm_up_and_a_cosine() -> None:
    config = TrainConfig(steps=1000, warmup=0.1, learning_rate=2.0)
    for index in range(1000):
        expected = 2 * (index + 1) / 100 if index < 100 else 2 * math.cos(math.pi / 2 * (index - 100) / 900) ** 2
        assert learning_rate(config, index) == pytest.approx(expected, rel=1e-9)
    assert learning_rate(config, 99) == learning_rate(config, 100) == 2.0
    assert 0 < learning_rate(config, 999) < 1e-4
    assert learning_rate(TrainConfig(steps=10, warmup=0, learning_rate=3.0), 0) == 3.0


def test_the_optimizer_follows_the_schedule(tmp_path: Path) -> None:
    """With AdamW's first moments alone in play, a constant gradient moves a weight by the sum of the rates."""

    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def loss(self, batch, step):
            return 0.5 * self.w.sum(), {}

    m = Slope()
    run(m, tmp_path, lambda i: ())
    expected = -sum(learning_rate(CONFIG, i) for i in range(CONFIG.steps))
    assert m.w.item() == pytest.approx(expected, rel=1e-4)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    """The first step of AdamW does not depend on the gradient's size, but its second moment holds the clipped one."""
    norms = []

    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(4))
            self.w.register_post_accumulate_grad_hook(lambda p: norms.append(p.grad))

        def loss(self, batch, step):
            return 50.0 * self.w.sum(), {}

    run(Steep(), tmp_path, lambda i: (), TrainConfig(steps=1, clip_norm=0.7))
    assert norms[0].norm().item() == pytest.approx(0.7, rel=1e-4)  # clipped in place


def test_weight_decay_is_for_matrices() -> None:
    m = Model()
    matrices, rest = make_optimizer(m, TrainConfig(weight_decay=0.25)).param_groups
    assert {id(p) for p in matrices["params"]} == {id(m.net[0].weight), id(m.net[4].weight)}
    assert {id(p) for p in rest["params"]} == {id(m.net[0].bias), id(m.net[1].weight), id(m.net[1].bias)}
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.25, 0.0)


def test_it_learns_and_logs(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"steps": 300, "log_every": 20})
    m = model()
    log = run(m, tmp_path, config=config)
    assert log.columns["step"] == [*range(0, 300, 20), 299]
    assert {len(column) for column in log.columns.values()} == {16}
    x = torch.randn(500, 3)
    with torch.no_grad():
        assert (m.net(x) - x.sum(1, keepdim=True)).square().mean() < 0.5 * x.sum(1).var()
    assert log.seconds > 0 and not m.training
    assert torch.equal(m.frozen, torch.ones(2, 2))


def test_each_step_knows_where_it_is(tmp_path: Path) -> None:
    m = model()
    run(m, tmp_path)
    assert [s.index for s in m.seen] == list(range(13)) and {s.total for s in m.seen} == {13}
    assert [s.progress for s in m.seen] == [i / 13 for i in range(13)]
    assert [s.index for s in m.seen if s.log] == [0, 3, 6, 9, 12]


def test_a_run_repeats_and_the_seed_matters(tmp_path: Path) -> None:
    a, b, c = model(), model(), model()
    first = run(a, tmp_path / "a")
    torch.manual_seed(1234)
    assert run(b, tmp_path / "b").columns == first.columns
    assert_equal(a, b)
    assert run(c, tmp_path / "c", seed=1).columns != first.columns


@pytest.mark.parametrize("kills", [(2,), (4,), (7,), (8,), (12,), (5, 9), (6, 6, 6)])
def test_a_killed_training_goes_on_and_ends_the_same(tmp_path: Path, kills: tuple[int, ...]) -> None:
    whole = model()
    expected = run(whole, tmp_path / "whole")
    for kill in kills:
        with pytest.raises(Killed):
            run(model(), tmp_path / "killed", killed_at(kill))
    resumed = model(seed=0 if kills == (2,) else 7)  # weights come from the state, once there is one
    log = run(resumed, tmp_path / "killed")
    assert [s.index for s in resumed.seen] == list(range(kills[-1] // 4 * 4, 13))
    assert_equal(whole, resumed)
    assert log.columns == expected.columns


def test_what_is_trained_to_the_end_is_not_trained_again(tmp_path: Path) -> None:
    whole, again = model(), model(seed=7)
    log = run(whole, tmp_path)
    repeated = run(again, tmp_path)
    assert again.seen == [] and repeated.columns == log.columns and not again.training
    assert repeated.seconds == log.seconds
    assert_equal(whole, again)


@pytest.mark.parametrize("change", [{"seed": 1}, {"config": CONFIG.model_copy(update={"steps": 14})}, {"of": {"a": 1}}])
def test_another_training_does_not_go_on_from_it(tmp_path: Path, change: dict, caplog) -> None:
    run(model(), tmp_path)
    again = model()
    with caplog.at_level(logging.WARNING):
        asked = {"seed": 0, "config": CONFIG, "of": {}} | change
        train(again, batch, device=CPU, folder=tmp_path, progress=False, **asked)
    assert again.seen[0].index == 0 and "of another training" in caplog.text


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"save_every": None}, [13]),
        ({"save_every": None, "save_seconds": 0.0}, list(range(1, 14))),
        ({"save_every": 4, "save_seconds": 0.0}, [4, 8, 12, 13]),
    ],
)
def test_when_the_state_is_saved(
    settings: dict, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    monkeypatch.setattr(loop, "_save", lambda state, index, *_: saved.append(index))
    run(model(), tmp_path, config=CONFIG.model_copy(update=settings))
    assert saved == expected


def test_the_clock_stands_still_while_the_state_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = loop._save

    def slow(*arguments: object) -> None:
        time.sleep(1)
        save(*arguments)

    monkeypatch.setattr(loop, "_save", slow)
    begin = time.perf_counter()
    log = run(model(), tmp_path)
    assert log.seconds < time.perf_counter() - begin - 3


def test_seconds_of_all_parts_add_up(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(model(), tmp_path, killed_at(9))
    path = tmp_path / ".state" / "state.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "seconds": 100.0}))
    assert 100 < run(model(), tmp_path).seconds < 110


def test_only_the_last_state_is_kept(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(model(), tmp_path, killed_at(10))
    assert sorted(p.name for p in (tmp_path / ".state").iterdir()) == ["state.json", "step-8"]


def test_a_kill_while_saving_leaves_the_older_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model()
    run(whole, tmp_path / "whole")
    from lewm_bench.train import loop as module

    real = module.write_text

    def dying(path: Path, text: str) -> None:
        if json.loads(text)["step"] == 8:
            raise Killed
        real(path, text)

    monkeypatch.setattr(module, "write_text", dying)
    with pytest.raises(Killed):
        run(model(), tmp_path / "killed")
    monkeypatch.undo()
    resumed = model()
    run(resumed, tmp_path / "killed")
    assert resumed.seen[0].index == 4
    assert_equal(whole, resumed)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def without(key: str):
    def damage(state: Path) -> None:
        content = json.loads((state / "state.json").read_text())
        content.pop(key)
        (state / "state.json").write_text(json.dumps(content))

    return damage


DAMAGE = {
    "state.json cut": lambda s: cut(s / "state.json"),
    "state.json absent": lambda s: (s / "state.json").unlink(),
    "state.json not an object": lambda s: (s / "state.json").write_text("[]"),
    "state.json not text": lambda s: (s / "state.json").write_bytes(b"\xff\xfe"),
    "no columns": without("columns"),
    "no step": without("step"),
    "weights cut": lambda s: cut(s / "step-4" / "model.safetensors"),
    "moments cut": lambda s: cut(s / "step-4" / "optimizer.safetensors"),
    "moments absent": lambda s: (s / "step-4" / "optimizer.safetensors").unlink(),
    "moments of something else": lambda s: shutil.copy(
        s / "step-4" / "model.safetensors", s / "step-4" / "optimizer.safetensors"
    ),
    "folder absent": lambda s: shutil.rmtree(s / "step-4"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_an_unreadable_state_starts_again_with_a_warning(tmp_path: Path, damage, caplog) -> None:
    whole = model()
    expected = run(whole, tmp_path / "whole")
    with pytest.raises(Killed):
        run(model(), tmp_path / "killed", killed_at(6))
    damage(tmp_path / "killed" / ".state")
    again = model()
    with caplog.at_level(logging.WARNING):
        log = run(again, tmp_path / "killed")
    assert "unreadable" in caplog.text and "training starts again" in caplog.text
    assert again.seen[0].index == 0
    assert_equal(whole, again)
    assert log.columns == expected.columns


class Diverging(Model):
    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def loss(self, batch, step):
        error, parts = super().loss(batch, step)
        return (error * float("nan") if step.index >= self.at else error), parts


@pytest.mark.parametrize(("at", "reported"), [(0, 0), (3, 3), (4, 6), (11, 12)])
def test_a_loss_that_is_not_finite_fails_with_one_line(tmp_path: Path, at: int, reported: int) -> None:
    with pytest.raises(TrainingFailed) as caught:
        run(Diverging(at), tmp_path)
    message = str(caught.value)
    assert message == f"the loss is not a finite number at step {reported}; try a lower train.learning_rate"


class Collapsing(Model):
    def __init__(self, std: list[float]) -> None:
        super().__init__()
        self.std = iter(std)

    def loss(self, batch, step):
        error, parts = super().loss(batch, step)
        return error, {**parts, "latent_std": torch.tensor(next(self.std))} if step.log else parts


@pytest.mark.parametrize("where", ["weight", "running_mean"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_the_last_step_breaks_fail(tmp_path: Path, where: str, bad: float) -> None:
    class Breaking(Model, TrainableModule):
        def after_step(self, step: Step) -> None:
            if step.index == CONFIG.steps - 1:
                getattr(self.net[1], where)[3] = bad

    torch.manual_seed(0)
    with pytest.raises(TrainingFailed, match=rf"not finite numbers \(tensor net\.1\.{where}\)"):
        run(Breaking(), tmp_path)


def test_collapsed_latents_fail_with_one_line(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"steps": 20, "log_every": 1})
    with pytest.raises(TrainingFailed, match=r"the latents collapsed .*0\.0100 < 0\.02 at step 7\); raise the weight"):
        run(Collapsing([1.0] * 3 + [0.01] * 17), tmp_path / "late", config=config)
    with pytest.raises(TrainingFailed, match="at step 4"):
        run(Collapsing([0.01] * 20), tmp_path / "early", config=config)


def test_a_spell_of_small_latents_is_not_a_collapse(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"steps": 20, "log_every": 1})
    spells = ([0.01] * 4 + [0.5]) * 4
    assert run(Collapsing(spells), tmp_path, config=config).columns["latent_std"] == pytest.approx(spells)


class Policy(nn.Module):
    """Regresses actions from an input that says them, or from one that says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)

    def loss(self, batch, step: Step):
        x, y = batch
        error = (self.net(x) - y).square().mean()
        return error, {"action_error": error, "mean_action": y.square().mean()}


def telling(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.from_numpy(stream(1, "batch", index).standard_normal((32, 3), np.float32))
    return x, x.mean(1, keepdim=True) * 3**0.5


def telling_nothing(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(32, 3), telling(index)[1]


POLICY = TrainConfig(steps=200, batch_size=32, learning_rate=0.05, weight_decay=0, warmup=0, log_every=10)


def trained_policy(batches, folder: Path, **change) -> TrainingLog:
    torch.manual_seed(0)
    config = POLICY.model_copy(update=change)
    return train(Policy(), batches, config, seed=0, device=CPU, folder=folder, progress=False)


def test_a_policy_that_never_left_the_mean_action_fails_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingFailed, match=r"never left the mean action .* is 1\d\d\.\d % .*train.on_collapse=continue"
    ) as found:
        trained_policy(telling_nothing, tmp_path / "stuck")
    assert "\n" not in str(found.value)
    kept = trained_policy(telling_nothing, tmp_path / "kept", on_collapse="continue")
    assert policy_error(kept.columns) > 0.98
    assert policy_error(trained_policy(telling, tmp_path / "learned").columns) < 0.1


def columns(**found: list[float | None]) -> dict[str, list[float | None]]:
    return {"step": [float(i) for i in range(len(next(iter(found.values()))))], **found}


def test_the_end_of_training_is_judged_by_sums_of_its_last_fifth() -> None:
    error, mean = [1.0] * 40 + [0.9] * 10, [1.0] * 49 + [11.0]
    assert policy_error(columns(action_error=error, mean_action=mean)) == pytest.approx(9 / 20)
    # Five logged steps at least, and what is no number is left out.
    assert policy_error(
        columns(action_error=[5.0, 0.5, None, 0.5, 0.5, 0.5, 0.5], mean_action=[1.0] * 7)
    ) == pytest.approx(0.5)


def test_too_few_logged_steps_and_what_is_no_policy_are_not_judged() -> None:
    short = columns(action_error=[1.0] * 4, mean_action=[1.0] * 4)
    for found in (short, columns(loss=[1.0] * 9), columns(action_error=[1.0] * 9)):
        assert math.isnan(policy_error(found))
        raise_if_mean_action(found)


def test_a_weighted_policy_is_judged_by_its_weighted_error() -> None:
    """Advantage weights choose what to imitate: an error over all data that is large is no fault."""
    healthy = columns(action_error=[1.3] * 9, policy=[40.0] * 9, mean_action=[60.0] * 9)
    raise_if_mean_action(healthy)
    stuck = columns(action_error=[0.9] * 9, policy=[59.5] * 9, mean_action=[60.0] * 9)
    with pytest.raises(TrainingFailed, match=r"99\.2 % of the mean action's"):
        raise_if_mean_action(stuck)


def test_global_generators_are_untouched(tmp_path: Path) -> None:
    m = model()
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()
    run(m, tmp_path)
    assert torch.equal(torch.get_rng_state(), before[0])
    after = np.random.get_state()
    assert (after[1] == before[1][1]).all() and after[2] == before[1][2]


def test_a_part_that_is_not_finite_is_logged_as_missing() -> None:
    log = TrainingLog()
    log.add(0, {"loss": 1.0, "rank": float("nan")})
    log.add(20, {"loss": float("inf"), "rank": 2.0})
    assert log.columns == {"step": [0, 20], "loss": [1.0, None], "rank": [None, 2.0]}
    json.dumps(log.columns, allow_nan=False)
