"""DINO-WM's tokens: on disk once per dataset and per weights, anew for every batch, or refused for want of room."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_env import TOY_ID, make_toy

from lewm_bench.agent import Setting
from lewm_bench.agents.dino_wm import DINO_WM, DinoWMConfig
from lewm_bench.agents.parts import token_cache as tokens
from lewm_bench.agents.parts.encoders import LocalConfig, LocalEncoder
from lewm_bench.agents.parts.token_cache import cached_tokens, empty_encoder, frozen_encoder, token_source
from lewm_bench.core.errors import UserError
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.run.keys import model_spec
from lewm_bench.system.checkpoint import load_tensors
from lewm_bench.system.store import Store
from lewm_bench.train.loop import TrainConfig

CPU = torch.device("cpu")
TRAIN = TrainConfig(steps=6, batch_size=4, learning_rate=1e-3)
CONFIG = DinoWMConfig(
    encoder="lowpass",
    local=LocalConfig(width=16, depth=1, heads=2, channels=8, scales=(4, 10), train=TRAIN),
    conditioning="adaln",
    width=16,
    depth=1,
    heads=2,
    head_size=8,
    mlp_hidden=32,
    frame_skip=2,
    train=TRAIN,
)
FRAME = 4 * 8 * 2  # bytes of a frame's tokens


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder, env = tmp_path_factory.mktemp("tokens"), make_toy(size=32)
    data = collect(env, CollectConfig(episodes=12, steps=14, policies={"drift": 1.0}), 0, folder / "data", False)
    return Setting(env, TOY_ID, "dino-wm", data, "key", CONFIG, PlannerConfig(), 0, CPU, Store(folder))


@pytest.fixture
def setting(base: Setting, tmp_path: Path) -> Setting:
    return replace(base, store=Store(tmp_path / "cache"))


def choosing(setting: Setting, choice: str) -> Setting:
    return replace(setting, config=setting.config.model_copy(update={"cache_tokens": choice}))


def on_disk(setting: Setting) -> list[Path]:
    return sorted((setting.store.root / "tokens").glob("*/tokens.npy"))


@pytest.mark.parametrize("size", [64, 1000])
def test_computed_for_the_batch_they_are_those_on_disk(setting: Setting, monkeypatch, size: int) -> None:
    monkeypatch.setattr(tokens, "TOGETHER", size)  # 10 wanted frames and 135 others, whatever is encoded together
    encoder = frozen_encoder(setting)
    kept, anew = (token_source(choosing(setting, choice), encoder) for choice in ("disk", "never"))
    rows = np.random.default_rng(0).choice(setting.dataset.rows("train"), (5, 2))
    assert anew(rows).dtype == kept(rows).dtype == torch.float16
    assert anew(rows).shape == kept(rows).shape == (5, 2, 4, 8)
    torch.testing.assert_close(anew(rows), kept(rows), rtol=2e-3, atol=1e-3)
    for place in [(0, 1), (4, 0)]:
        frame = torch.from_numpy(np.moveaxis(setting.dataset.frames[rows[place]], -1, 0).copy())
        torch.testing.assert_close(kept(rows)[place].float(), encoder(frame[None])[0], rtol=2e-3, atol=1e-3)


def test_both_train_to_the_same_weights_up_to_rounding(setting: Setting, tmp_path: Path) -> None:
    never, disk = (choosing(setting, choice) for choice in ("never", "disk"))
    DINO_WM.train(never, tmp_path / "never")
    assert on_disk(setting) == []
    DINO_WM.train(disk, tmp_path / "disk")
    assert len(on_disk(setting)) == 1
    anew, kept = (load_tensors(tmp_path / choice / "model.safetensors") for choice in ("never", "disk"))
    assert kept.keys() == anew.keys()
    for name, tensor in kept.items():
        torch.testing.assert_close(anew[name], tensor, rtol=1e-3, atol=1e-4)


def test_auto_looks_at_their_size_and_at_the_room(setting: Setting, monkeypatch) -> None:
    encoder = empty_encoder(setting)
    needed = 135 * FRAME
    for limit, spare, expected in [
        (needed, needed, True),
        (needed - 1, needed, False),
        (needed, needed - 1, False),
        (2**50, -tokens.DISK_SPARE, False),
    ]:
        monkeypatch.setattr(tokens, "DISK_LIMIT", limit)
        monkeypatch.setattr(tokens, "free_bytes", lambda _, spare=spare: tokens.DISK_SPARE + spare)
        assert tokens.to_disk(setting, encoder) == expected, (limit, spare)
        assert tokens.to_disk(choosing(setting, "disk"), encoder)
        assert not tokens.to_disk(choosing(setting, "never"), encoder)
    monkeypatch.undo()
    cached_tokens(setting, encoder)
    monkeypatch.setattr(tokens, "DISK_LIMIT", 0)
    assert tokens.to_disk(setting, encoder)  # they are there already


def test_a_disk_without_room_is_named_with_the_size_and_what_to_do(setting: Setting, monkeypatch) -> None:
    monkeypatch.setattr(tokens, "free_bytes", lambda _: tokens.DISK_SPARE + 1000)
    wide = replace(setting, config=CONFIG.model_copy(update={"cache_tokens": "disk"}))
    with pytest.raises(UserError, match=r"tokens of 135 frames need 0\.0 GiB .* 2\.0 GiB are free") as caught:
        token_source(wide, empty_encoder(wide))
    assert "dino-wm.cache_tokens=never" in str(caught.value) and "--cache" in str(caught.value)
    assert "\n" not in str(caught.value) and on_disk(setting) == []


def test_free_space_is_that_of_the_disk_of_a_folder_to_be(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert tokens.free_bytes(tmp_path / "a" / "b" / "c") == pytest.approx(free, rel=0.1)


def test_an_interrupted_encoding_goes_on(setting: Setting, monkeypatch) -> None:
    monkeypatch.setattr(tokens, "TOGETHER", 32)
    encoder = frozen_encoder(setting)
    _, whole = cached_tokens(replace(setting, store=Store(setting.store.root / "whole")), encoder)
    seen: list[int] = []

    def dying(frames: torch.Tensor) -> torch.Tensor:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(frames))
        return LocalEncoder.forward(encoder, frames)

    monkeypatch.setattr(encoder, "forward", dying)
    with pytest.raises(KeyboardInterrupt):
        cached_tokens(setting, encoder)
    [torn] = (setting.store.root / "tokens").glob("*.partial/tokens.npy")
    with torn.open("ab") as file:
        file.write(b"x" * (3 * FRAME + 5))  # as far as a kill lets a write come
    rest: list[int] = []
    monkeypatch.setattr(encoder, "forward", lambda x: rest.append(len(x)) or LocalEncoder.forward(encoder, x))
    _, found = cached_tokens(setting, encoder)
    assert sum(rest) == 135 - 64 and rest[0] == 32
    np.testing.assert_array_equal(found, whole)
    assert found.flags.writeable is False and np.isfinite(found).all()


# Real DINOv2's weights come from outside: what is cached belongs to them and not to where they lie.


def dinov2(folder: Path, seed: int) -> str:
    """A tiny random DINOv2 as its weights are published."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(seed)
    config = Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=70, mlp_ratio=2)
    Dinov2Model(config).save_pretrained(folder, safe_serialization=True)
    return str(folder)


def with_weights(setting: Setting, folder: str) -> Setting:
    return replace(setting, config=CONFIG.model_copy(update={"encoder": "dinov2-small", "weights": folder}))


def test_tokens_belong_to_the_weights_and_not_to_their_place(setting: Setting, tmp_path: Path) -> None:
    one, other = dinov2(tmp_path / "one", 0), dinov2(tmp_path / "other", 1)
    moved = shutil.copytree(one, tmp_path / "moved")
    chosen = [with_weights(setting, str(folder)) for folder in (one, other, moved)]
    found = []
    for each in chosen:
        found.append(np.array(cached_tokens(each, frozen_encoder(each))[1]))
        assert found[-1].dtype == np.float16 and found[-1].shape == (135, 196, 8)
    assert len(on_disk(setting)) == 2
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_so_does_what_is_trained_on_them(setting: Setting, tmp_path: Path) -> None:
    """Other weights in the same folder are another agent, and no checkpoint is used with others than its own."""
    folder = dinov2(tmp_path / "weights", 0)
    chosen = choosing(with_weights(setting, folder), "never")
    DINO_WM.train(chosen, tmp_path / "checkpoint")
    before = model_spec(chosen, DINO_WM)
    DINO_WM.load(chosen, tmp_path / "checkpoint")
    dinov2(tmp_path / "weights", 1)
    assert model_spec(chosen, DINO_WM) != before
    with pytest.raises(UserError, match=r"other DINOv2 weights .*dino-wm\.weights=FOLDER") as caught:
        DINO_WM.load(chosen, tmp_path / "checkpoint")
    assert "\n" not in str(caught.value)
    dinov2(tmp_path / "weights", 0)
    assert model_spec(chosen, DINO_WM) == before
    assert model_spec(setting, DINO_WM)["outside"] == ""
