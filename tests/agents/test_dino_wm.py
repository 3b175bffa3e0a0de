"""DINO-WM: who sees whom, the frozen encoders and their targets, cached tokens, and what happens without weights."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_env import TOY_ID, make_toy

from lewm_bench.agent import Setting
from lewm_bench.agents import dino_wm
from lewm_bench.agents.dino_wm import DINO_WM, DinoWM, DinoWMConfig, TokenPredictor, frame_causal_mask
from lewm_bench.agents.parts.encoders import (
    POSITION_RULES,
    Dinov2Encoder,
    LocalConfig,
    LocalEncoder,
    dinov2_folder,
    gaussian_pool,
    resampled_positions,
    sample_frames,
)
from lewm_bench.agents.parts.token_cache import (
    cached_tokens,
    empty_encoder,
    encoding_seconds,
    frozen_encoder,
    pretraining_seconds,
)
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.system.store import Store
from lewm_bench.train.loop import Step, TrainConfig, TrainingLog

CPU = torch.device("cpu")
LOCAL = LocalConfig(
    width=16,
    depth=1,
    heads=2,
    channels=8,
    scales=(4, 10),
    train=TrainConfig(steps=30, batch_size=8, learning_rate=1e-3),
)
CONFIG = DinoWMConfig(
    encoder="lowpass",
    local=LOCAL,
    conditioning="adaln",
    width=16,
    depth=3,
    heads=2,
    head_size=8,
    mlp_hidden=32,
    frame_skip=2,
    train=TrainConfig(steps=4, batch_size=4),
)
STYLES = {"adaln": {}, "concat": {"conditioning": "concat", "width": None}, "projected": {"conditioning": "concat"}}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("dino")
    env = make_toy(size=32)
    data = collect(env, CollectConfig(episodes=30, steps=14, policies={"drift": 1.0}), 0, folder / "data", False)
    return Setting(env, TOY_ID, "dino-wm", data, "key", CONFIG, PlannerConfig(), 0, CPU, Store(folder))


def predictor(style: str, P: int = 4, C: int = 6) -> TokenPredictor:
    """A predictor none of whose parts is silent."""
    model = TokenPredictor(CONFIG.model_copy(update=STYLES[style]), P, C, 4)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


@pytest.mark.parametrize(("T", "P"), [(1, 4), (2, 1), (3, 4), (4, 2)])
def test_the_mask_lets_a_token_see_its_own_and_earlier_frames(T: int, P: int) -> None:
    mask = frame_causal_mask(T, P, CPU)
    if T == 1:
        assert mask is None
        return
    for query in range(T * P):
        for key in range(T * P):
            assert bool(mask[query, key]) == (key // P <= query // P)


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_who_sees_whom_by_brute_force(style: str) -> None:
    """Change each token and each action; see which predictions change."""
    T, P, C = 3, 4, 6
    model = predictor(style)
    tokens, actions = torch.randn(1, T, P, C), torch.randn(1, T, 4)
    before = model(tokens, actions)
    assert before.shape == (1, T, P, C)
    for t in range(T):
        for p in range(P):
            changed = tokens.clone()
            changed[0, t, p] += 1
            difference = (model(changed, actions) - before).abs().amax(-1)[0]  # (T, P)
            assert (difference[:t] == 0).all() and (difference[t:] > 1e-6).all()
        changed = actions.clone()
        changed[0, t] += 1
        difference = (model(tokens, changed) - before).abs().amax(-1)[0]
        assert (difference[:t] == 0).all() and (difference[t:] > 1e-6).all()


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("T", [1, 2, 3])
def test_the_last_frame_alone_is_that_of_the_full_forward(style: str, T: int) -> None:
    model = predictor(style)
    tokens, actions = torch.randn(5, T, 4, 6), torch.randn(5, T, 4)
    full, last = model(tokens, actions), model(tokens, actions, last_only=True)
    assert last.shape == (5, 1, 4, 6)
    torch.testing.assert_close(last, full[:, -1:], rtol=1e-5, atol=1e-5)


def world_model(style: str = "adaln") -> DinoWM:
    encoder = LocalEncoder(LOCAL, "lowpass", 32)
    model = DinoWM(CONFIG.model_copy(update=STYLES[style]), encoder, 2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
        encoder.components.normal_()
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("style", STYLES)
def test_predict_next_is_the_last_prediction_of_the_full_forward(style: str) -> None:
    model = world_model(style)
    latents = model.encode(torch.randint(0, 256, (6, 3, 3, 32, 32), dtype=torch.uint8))
    actions = torch.randn(6, 3, 4)
    assert latents.shape == (6, 3, 4, 8)
    expected = model.predictor(latents, actions)[:, -1]
    torch.testing.assert_close(model.predict_next(latents, actions), expected, rtol=1e-5, atol=1e-5)


def test_candidates_in_chunks_are_the_same_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    model = world_model()
    latents, actions = torch.randn(23, 3, 4, 8), torch.randn(23, 3, 4)
    whole = model.predict_next(latents, actions)
    sizes = []
    model.predictor.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    monkeypatch.setattr(dino_wm, "CHUNK_NUMBERS", 5 * 3 * 4 * CONFIG.mlp_hidden)
    torch.testing.assert_close(model.predict_next(latents, actions), whole, rtol=1e-5, atol=1e-6)
    assert sizes == [5, 5, 5, 5, 3]
    sizes.clear()
    monkeypatch.setattr(dino_wm, "CHUNK_NUMBERS", 1)
    torch.testing.assert_close(model.predict_next(latents, actions), whole, rtol=1e-5, atol=1e-6)
    assert sizes == [1] * 23


def test_adaln_begins_with_nothing_moves() -> None:
    model = TokenPredictor(CONFIG, 4, 6, 4).eval()
    tokens = torch.randn(2, 3, 4, 6)
    assert torch.equal(model(tokens, torch.randn(2, 3, 4)), tokens)


def test_the_defaults_are_dino_wms_predictor() -> None:
    config = DinoWMConfig()
    model = TokenPredictor(config, 196, 384, 10)
    assert model.positions.shape == (1, 3 * 196, 394) and len(model.blocks) == 6
    block = model.blocks[0]
    assert block.qkv.weight.shape == (3 * 1024, 394) and block.mlp[0].weight.shape == (2048, 394)
    assert model.output.weight.shape == (384, 394) and isinstance(model.input, torch.nn.Identity)


@pytest.mark.parametrize("style", STYLES)
def test_gradients_reach_the_predictor_and_not_the_encoder(style: str) -> None:
    torch.manual_seed(0)
    model = DinoWM(CONFIG.model_copy(update=STYLES[style]), LocalEncoder(LOCAL, "lowpass", 32), 2).train()
    batch = torch.randn(5, 4, 4, 8).half(), torch.randn(5, 3, 4)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for index in range(3):  # output, then modulations, then the action embedding behind them
        optimizer.zero_grad()
        model.loss(batch, Step(index, 3, torch.Generator(), False))[0].backward()
        optimizer.step()
    silent = [n for n, p in model.predictor.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == [] and all(p.grad is None for p in model.encoder.parameters())


@torch.no_grad()
def test_the_loss_is_the_error_of_the_next_frames_tokens() -> None:
    model = world_model()
    model.action_scale.fit(np.float32([1, 2]), np.float32([0.5, 4]))
    batch = torch.randn(5, 4, 4, 8).half(), torch.randn(5, 3, 4)
    loss, parts = model.loss(batch, Step(0, 2, torch.Generator(), True))
    actions = ((batch[1].view(5, 3, 2, 2) - torch.tensor([1.0, 2])) / torch.tensor([0.5, 4])).flatten(2)
    tokens = batch[0].float().numpy()
    prediction = model.predictor(batch[0][:, :3].float(), actions).numpy()
    assert loss.item() == pytest.approx(((prediction - tokens[:, 1:]) ** 2).mean(), rel=1e-5)
    assert parts["copy_last"].item() == pytest.approx(((tokens[:, :3] - tokens[:, 1:]) ** 2).mean(), rel=1e-5)


# The local encoders.


@torch.no_grad()
def test_lowpass_targets_against_blur_and_average_pixel_by_pixel() -> None:
    size, patch, cells = 32, 16, 4
    encoder = LocalEncoder(LOCAL, "lowpass", size)
    images = torch.randn(2, 3, size, size)
    actual = encoder.lowpass_targets(images).numpy()
    assert actual.shape == (2, 2, 4, 3 * cells * cells)
    x = np.arange(size)
    for k, scale in enumerate(LOCAL.scales):
        kernel = np.exp(-0.5 * ((x[:, None] - x) / (scale * size / 64)) ** 2)  # scales are in pixels of 64 px images
        kernel /= kernel.sum(1, keepdims=True)
        for n in range(2):
            for channel in range(3):
                image = images[n, channel].double().numpy()
                blurred = np.zeros((size, size))
                for row in range(size):
                    for column in range(size):
                        blurred[row, column] = kernel[row] @ image @ kernel[column]
                for token in range(4):
                    top, left = patch * (token // 2), patch * (token % 2)
                    for i in range(cells):
                        for j in range(cells):
                            rows = slice(top + 4 * i, top + 4 * i + 4)
                            columns = slice(left + 4 * j, left + 4 * j + 4)
                            expected = blurred[rows, columns].mean()
                            number = channel * cells**2 + i * cells + j
                            assert actual[n, k, token, number] == pytest.approx(expected, abs=1e-5)


def test_blurring_keeps_a_constant() -> None:
    torch.testing.assert_close(gaussian_pool(48, 12, 5.0) @ torch.full((48,), 3.0), torch.full((12,), 3.0))


def encoder_and_frames(setting: Setting, objective: str) -> tuple[LocalEncoder, torch.Tensor]:
    frames = sample_frames(setting.dataset, 200)
    encoder = LocalEncoder(LOCAL, objective, 32)
    encoder.fit_frames(frames)
    return encoder, frames


@torch.no_grad()
@pytest.mark.parametrize("objective", ["lowpass", "mae"])
def test_hidden_patches_do_not_reach_the_prediction(setting: Setting, objective: str) -> None:
    """Whatever the hidden patches show, the network sees the mean frame there."""
    encoder, frames = encoder_and_frames(setting, objective)
    images = encoder.normalize(frames[:3])
    hidden = torch.tensor([[True, False, False, True], [False] * 4, [True] * 4])
    shown = encoder._hide(images, hidden)
    for n in range(3):
        for token in range(4):
            part = (slice(16 * (token // 2), 16 * (token // 2) + 16), slice(16 * (token % 2), 16 * (token % 2) + 16))
            source = encoder.mean_frame if hidden[n, token] else images[n]
            assert torch.equal(shown[n, :, part[0], part[1]], source[:, part[0], part[1]])
    torch.testing.assert_close(encoder.mean_frame, encoder.normalize(frames).mean(0))


@torch.no_grad()
def test_the_pretraining_losses_by_hand(setting: Setting) -> None:
    for objective, share in (("lowpass", 0.1), ("mae", 0.5)):
        encoder, frames = encoder_and_frames(setting, objective)
        batch, generator = frames[:40], torch.Generator().manual_seed(3)
        loss, _ = encoder.loss((batch,), Step(0, 1, torch.Generator().manual_seed(3), False))
        hidden = torch.rand(40, 4, generator=generator) < share
        images = encoder.normalize(batch)
        prediction = encoder.head(encoder.vit(encoder._hide(images, hidden)))
        change = (images - encoder.mean_frame).numpy()
        errors = []
        for n in range(40):
            for token in range(4):
                top, left = 16 * (token // 2), 16 * (token % 2)
                if objective == "mae":
                    if hidden[n, token]:
                        target = change[n, :, top : top + 16, left : left + 16].reshape(-1)
                        errors.append(((prediction[n, token].numpy() - target) ** 2).mean())
                else:
                    maps = encoder.lowpass_targets(torch.from_numpy(change[n : n + 1]))[0, :, token]
                    target = (maps / encoder.target_scale[:, None]).flatten().numpy()
                    errors.append(((prediction[n, token].numpy() - target) ** 2).mean())
        assert loss.item() == pytest.approx(np.mean(errors), rel=1e-4)


def test_random_weights_give_tokens_that_vary(setting: Setting) -> None:
    """They are the floor of every examination; principal components that nobody fitted would make them zeros."""
    embed = DINO_WM.load(setting, None).embed
    rows = setting.dataset.rows("test")[:40]
    tokens = embed(torch.from_numpy(np.moveaxis(setting.dataset.frames[rows], -1, 1)), setting.dataset.states[rows])
    assert tokens.std(0).mean() > 0.1


def test_fitted_tokens_are_centred_principal_components(setting: Setting) -> None:
    encoder, frames = encoder_and_frames(setting, "lowpass")
    encoder.requires_grad_(False)
    encoder.fit(frames)
    tokens = encoder.vit(encoder.normalize(frames)).double().numpy()
    centred = (tokens - tokens.mean(0)).reshape(-1, 16)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    scores = left * values
    expected = scores[:, :8] / scores[:, :8].std()
    actual = encoder(frames).double().numpy().reshape(-1, 8)
    strong = values[:8] / values[0] > 1e-2  # directions of equal small variance are not unique
    signs = np.sign((expected * actual).sum(0))
    np.testing.assert_allclose(actual[:, strong], (expected * signs)[:, strong], atol=2e-2)
    assert actual.std() == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(encoder(frames).mean(0).numpy(), 0, atol=1e-3)


@pytest.mark.parametrize("objective", ["lowpass", "mae"])
def test_a_local_encoder_is_determined_by_dataset_and_config(setting: Setting, tmp_path: Path, objective: str) -> None:
    """Not by the seed of the cell or global state: all seeds of a dataset share it."""
    config = CONFIG.model_copy(update={"encoder": objective})
    states = []
    for number, seed in enumerate((0, 0, 5)):
        torch.manual_seed(number)
        chosen = replace(setting, config=config, seed=seed, store=Store(tmp_path / str(number)))
        states.append(frozen_encoder(chosen).state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]) and torch.equal(tensor, states[2][name]), name
    assert states[0]["components"].abs().max() > 0


def test_pretraining_reduces_its_error(setting: Setting, tmp_path: Path) -> None:
    config = LOCAL.model_copy(
        update={"train": LOCAL.train.model_copy(update={"steps": 300, "batch_size": 32, "learning_rate": 2e-3})}
    )
    encoder, frames = encoder_and_frames(setting, "lowpass")
    step = Step(0, 1, torch.Generator().manual_seed(0), False)
    before = encoder.loss((frames,), step)[0].item()
    chosen = replace(setting, config=CONFIG.model_copy(update={"local": config}), store=Store(tmp_path))
    after = frozen_encoder(chosen).loss((frames,), step)[0].item()
    assert after < 0.4 * before


def test_cached_tokens_are_the_encoders_up_to_float16(setting: Setting, tmp_path: Path) -> None:
    chosen = replace(setting, store=Store(tmp_path))
    encoder = frozen_encoder(chosen)
    rows, tokens = cached_tokens(chosen, encoder)
    np.testing.assert_array_equal(rows, setting.dataset.rows("train"))
    assert len(rows) > 256 and tokens.dtype == np.float16 and tokens.shape == (len(rows), 4, 8)
    model = DinoWM(CONFIG, encoder, 2).eval()
    frames = torch.from_numpy(np.moveaxis(setting.dataset.frames[rows], -1, 1).copy())
    expected = model.encode(frames[:, None])[:, 0].numpy()
    np.testing.assert_allclose(tokens.astype(np.float32), expected, rtol=1e-3, atol=1e-3)
    again = cached_tokens(chosen, empty_encoder(chosen))[1]  # from the cache: the encoder is not asked
    np.testing.assert_array_equal(again, tokens)


def test_training_batches_are_the_tokens_of_the_clips(setting: Setting, tmp_path: Path, monkeypatch) -> None:
    chosen = replace(setting, store=Store(tmp_path / "cache"))
    captured = {}

    def capture(setting, build, batch, folder):
        captured["batch"] = batch
        return TrainingLog(seconds=1.0)

    monkeypatch.setattr(dino_wm, "train_module", capture)
    encoder = LocalEncoder(LOCAL, "lowpass", 32)
    encoder.fit_frames(sample_frames(setting.dataset, 50))
    encoder.requires_grad_(False).fit(sample_frames(setting.dataset, 50))
    monkeypatch.setattr(dino_wm, "frozen_encoder", lambda _: encoder)
    DINO_WM.train(chosen, tmp_path)
    tokens, actions = captured["batch"](7)
    data = setting.dataset
    clips = data.clips("train", 4, 2)
    table = {clips.action_blocks(np.array([i])).numpy().tobytes(): i for i in range(len(clips))}
    assert tokens.shape == (4, 4, 4, 8) and actions.shape == (4, 3, 4)
    for n in range(4):
        i = table[actions[n : n + 1].numpy().tobytes()]
        expected = encoder(clips.batch(np.array([i])).frames[0]).numpy()
        np.testing.assert_allclose(tokens[n].float().numpy(), expected, atol=5e-3)


# DINOv2 itself.


def test_without_weights_it_says_what_to_do_and_does_not_wait(tmp_path: Path) -> None:
    """In a process of its own: huggingface_hub reads its environment when it is imported."""
    code = (
        "from lewm_bench.agents.parts.encoders import dinov2_folder\n"
        "from lewm_bench.core.errors import NotRun\n"
        "import time\n"
        "import huggingface_hub\n"
        "begin = time.perf_counter()\n"
        "try:\n"
        "    dinov2_folder(None)\n"
        "except NotRun as error:\n"
        "    print(time.perf_counter() - begin, error, sep='|')\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    seconds, message = done.stdout.strip().split("|")
    assert float(seconds) < 5
    assert "hf download facebook/dinov2-small" in message and "--set dino-wm.weights=FOLDER" in message


def test_an_own_folder_without_weights_is_named(tmp_path: Path, setting: Setting) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NotRun, match=r"has no model\.safetensors; mend dino-wm\.weights"):
        dinov2_folder(str(tmp_path))
    chosen = replace(setting, config=DINO_WM.configure({"weights": str(tmp_path / "nowhere")}, "dinov2-small"))
    begin = time.perf_counter()
    with pytest.raises(NotRun, match=r"has no config\.json and no model\.safetensors"):
        DINO_WM.requirements(chosen)
    assert time.perf_counter() - begin < 1
    DINO_WM.requirements(setting)  # local encoders need nothing


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random DINOv2 as its weights are published."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14, mlp_ratio=2
    )
    folder = tmp_path_factory.mktemp("dinov2")
    Dinov2Model(config).save_pretrained(folder, safe_serialization=True)
    assert (folder / "model.safetensors").is_file()
    return folder


@torch.no_grad()
def test_dinov2_tokens_are_the_patches_of_a_196_px_image(dinov2: Path) -> None:
    from transformers import Dinov2Model

    encoder = Dinov2Encoder(dinov2_folder(str(dinov2))).eval()
    frames = torch.randint(0, 256, (2, 3, 196, 196), dtype=torch.uint8)
    tokens = encoder(frames)
    assert (encoder.num_tokens, encoder.size) == (196, 24) and tokens.shape == (2, 196, 24)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = ((frames.permute(0, 2, 3, 1) / 255 - mean) / std).permute(0, 3, 1, 2)
    published = Dinov2Model.from_pretrained(dinov2).eval()
    positions = resampled_positions(published.embeddings.position_embeddings, 14, POSITION_RULES["dinov2"])
    published.embeddings.position_embeddings = torch.nn.Parameter(positions)
    expected = published(images).last_hidden_state
    assert expected.shape[1] == 197
    torch.testing.assert_close(tokens, expected[:, 1:], rtol=1e-4, atol=1e-4)
    assert encoder(frames[:, :, :64, :64]).shape == (2, 196, 24)  # other sizes are resized


# Positions: a plain numpy bicubic, written from its definition (Keys, 1981, a = -0.75, pixel centres at halves).


def keys(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic kernel."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def bicubic(own: int, side: int, scale: float, antialias: bool) -> np.ndarray:
    """(side, own) matrix that resamples a line; ``scale`` is that of the coordinates.

    Plain: four taps, the edge repeated. Antialiased: the kernel (a = -0.5, as Pillow's) widened by 1 / scale, its
    weights normalised over the taps that exist.
    """
    matrix = np.zeros((side, own))
    for i in range(side):
        centre = (i + 0.5) / scale - 0.5
        if antialias:
            wide = max(1.0, 1 / scale)
            weights = keys((np.arange(own) - centre) / wide, -0.5)
            matrix[i] = weights / weights.sum()
        else:
            first = math.floor(centre) - 1
            for tap in range(first, first + 4):
                matrix[i, np.clip(tap, 0, own - 1)] += keys(np.array(tap - centre), -0.75)
    return matrix


@pytest.mark.parametrize("own, side", [(37, 14), (37, 16), (5, 14), (9, 9)])
@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers"])
def test_positions_are_resampled_as_in_the_original_code(kind: str, own: int, side: int) -> None:
    """Without registers by the factor (side + 0.1) / own; with registers by size, antialiased."""
    positions = np.random.default_rng(0).standard_normal((1, 1 + own * own, 3)).astype(np.float32)
    found = resampled_positions(torch.from_numpy(positions), side, POSITION_RULES[kind]).numpy()
    registers = kind == "dinov2_with_registers"
    line = bicubic(own, side, side / own if registers else (side + 0.1) / own, registers)
    line = np.eye(own) if own == side else line
    grid = np.einsum("ik,klw,jl->ijw", line, positions[0, 1:].reshape(own, own, 3), line)
    np.testing.assert_allclose(found[0, 1:], grid.reshape(-1, 3), atol=2e-5)
    np.testing.assert_array_equal(found[0, 0], positions[0, 0])
    if own == 37:  # and not as transformers does without registers
        by_size = bicubic(own, side, side / own, False)
        assert np.abs(line - by_size).max() > 0.1


@pytest.mark.parametrize("registers", [False, True])
@torch.no_grad()
def test_the_encoder_sees_patches_at_the_original_positions(tmp_path: Path, registers: bool) -> None:
    """A transformer without blocks gives what it adds up: patch embedding and position."""
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(0)
    size = {"hidden_size": 6, "num_hidden_layers": 0, "num_attention_heads": 1, "image_size": 518, "patch_size": 14}
    if registers:
        published = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**size, num_register_tokens=4))
    else:
        published = Dinov2Model(Dinov2Config(**size))
    positions = torch.randn(1, 1 + 37 * 37, 6)
    published.embeddings.position_embeddings.copy_(positions)
    published.save_pretrained(tmp_path, safe_serialization=True)
    line = bicubic(37, 14, 14 / 37 if registers else 14.1 / 37, registers)
    grid = np.einsum("ik,klw,jl->ijw", line, positions[0, 1:].unflatten(0, (37, 37)).numpy(), line).reshape(-1, 6)
    encoder = Dinov2Encoder(tmp_path).eval()
    frames = torch.zeros(1, 3, 196, 196, dtype=torch.uint8)
    patches = published.embeddings.patch_embeddings(encoder.normalize(frames))[0]
    expected = torch.nn.functional.layer_norm(patches + torch.from_numpy(grid).float(), (6,), eps=1e-6)
    torch.testing.assert_close(encoder(frames)[0], expected, atol=1e-4, rtol=1e-4)


def test_weights_from_outside_that_are_not_finite_are_one_line(dinov2: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((dinov2 / name).read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["layernorm.bias"][2] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"not finite numbers \(tensor layernorm.bias\); fetch them again"):
        Dinov2Encoder(tmp_path)


def test_another_model_than_dinov2_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"model of type 'vit', not DINOv2; mend dino-wm\.weights"):
        Dinov2Encoder(tmp_path)


def test_dino_wm_with_dinov2_leaves_the_encoder_out_of_its_checkpoint(dinov2: Path, setting: Setting) -> None:
    config = CONFIG.model_copy(update={"encoder": "dinov2-small", "weights": str(dinov2)})
    loaded = DINO_WM.load(replace(setting, config=config), None)
    names = loaded.model.state_dict().keys()
    assert {n.split(".")[0] for n in names} == {"action_scale", "predictor", "encoder_identity"}
    assert loaded.tokens_per_frame == 196 and loaded.label == "DINO-WM (DINOv2 ViT-S/14, 196 tokens)"
    inner = sum(p.numel() for p in loaded.model.predictor.parameters())
    outer = sum(p.numel() for p in loaded.model.encoder.parameters())
    assert loaded.parameters == inner + outer and outer > 5000
    local = DINO_WM.load(setting, None)
    assert local.parameters == sum(p.numel() for p in local.model.parameters())
    assert "positions resampled as in the original DINOv2" in loaded.note
    assert (
        "not DINOv2" in local.note
        and "positions" not in local.note
        and local.label == "DINO-WM (frozen low-pass ViT, 4 tokens)"
    )


def test_variants_choose_the_encoder() -> None:
    assert DINO_WM.configure({"encoder": "mae"}, "lowpass").encoder == "lowpass"
    assert DINO_WM.configure({"encoder": "mae"}, None).encoder == "mae"
    with pytest.raises(UserError, match="did you mean 'lowpass'"):
        DINO_WM.configure({}, "low-pass")


def test_a_variant_that_is_the_default_trains_to_the_same_weights(setting: Setting, tmp_path: Path) -> None:
    """Both names have one key in the cache."""
    for name in ("dino-wm", f"dino-wm:{setting.config.encoder}"):
        DINO_WM.train(replace(setting, agent=name), tmp_path / name.replace(":", "-"))
    first, second = (path.read_bytes() for path in sorted(tmp_path.glob("dino-wm*/model.safetensors")))
    assert first == second


def test_training_time_includes_what_a_local_encoder_costs(setting: Setting, tmp_path: Path) -> None:
    chosen = replace(setting, store=Store(tmp_path / "cache"))
    log = DINO_WM.train(chosen, tmp_path)
    encoder = empty_encoder(chosen)
    seconds, encoding = pretraining_seconds(chosen, encoder), encoding_seconds(chosen, encoder)
    assert min(seconds, encoding) > 0 and seconds + encoding < log.seconds
    again = DINO_WM.train(replace(chosen, seed=1), tmp_path / "again")  # the encoder comes from the cache
    assert again.seconds > seconds + encoding
    assert seconds == pretraining_seconds(chosen, encoder) and encoding == encoding_seconds(chosen, encoder)
