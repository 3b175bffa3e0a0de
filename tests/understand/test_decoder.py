"""The decoder: what it must recover, what it must leave alone, and what its pictures and videos show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from toy_walks import CPU, Knowing, Tokens, Walk, dataset, knowing, walks

from lewm_bench.agent import embed_frames
from lewm_bench.core.errors import UserError
from lewm_bench.data import videos
from lewm_bench.data.format import Dataset
from lewm_bench.train.loop import TrainConfig
from lewm_bench.understand import decoder as module
from lewm_bench.understand.decoder import Decoder, DecoderConfig, as_bytes, decode, frame_statistics, train_decoder
from lewm_bench.understand.open_loop import rolled_out

LENGTHS = [30] * 12
SHORT = DecoderConfig(
    frames=128, test_frames=40, hidden=32, width=4, pictures=5, videos=2, blocks=4,
    train=TrainConfig(steps=30, batch_size=16, learning_rate=3e-3, save_every=10),
)  # fmt: skip


def longer(steps: int, **fields) -> DecoderConfig:
    changed = SHORT.train.model_copy(update={"steps": steps, "learning_rate": 5e-3})
    return SHORT.model_copy(update={"train": changed, **fields})


def planted(size: int = 16, count: int = 12) -> Dataset:
    """Frames that are a linear map of four numbers of the state."""
    rng = np.random.default_rng(0)
    states = [rng.uniform(-1, 1, (30, 4)) for _ in range(count)]
    maps = np.kron(rng.uniform(-30, 30, (4, size // 4, size // 4, 3)), np.ones((1, 4, 4, 1)))
    frames = (128 + np.tensordot(np.concatenate(states), maps, 1)).round().astype(np.uint8)
    return dataset(states, [np.zeros((29, 4))] * count, count // 2, frames)


def pictures(path: Path) -> list[np.ndarray]:
    image = Image.open(path)
    found = []
    for k in range(getattr(image, "n_frames", 1)):
        image.seek(k)
        found.append(np.asarray(image.convert("RGB")).astype(int))
    return found


def tile(sheet: np.ndarray, left: int, top: int, scale: int, size: int = 16) -> np.ndarray:
    """One frame cut out of a picture, made small again."""
    return sheet[top : top + size * scale : scale, left : left + size * scale : scale]


def test_a_handful_of_frames_is_learned_by_heart(tmp_path: Path):
    examined = knowing(walks([8, 30], held_out=1, draw=True), Walk())
    decoder, _ = train_decoder(examined, tmp_path, longer(200, width=8, frames=6))
    rows = examined.frames("train", 6)
    real = examined.dataset.frames[rows] / 255
    error = np.square(decoder.draw(examined.latents_at(rows)) - real).mean()
    assert error < 0.01 * np.square(real.mean(0) - real).mean()


@pytest.mark.parametrize("kind", [Knowing, Tokens])
def test_a_planted_linear_map_is_recovered(tmp_path: Path, kind: type[Knowing]):
    found = decode(knowing(planted(), Walk(), kind), tmp_path, longer(400, width=8))
    assert found.mse.high < 0.05 * found.mean_frame_mse


def test_latents_that_say_nothing_give_the_mean_frame(tmp_path: Path):
    """Shuffled states: nothing held out is drawn better than by the mean training frame."""
    data = planted()
    shuffled = replace(data, states=np.random.default_rng(1).permutation(data.states))
    found = decode(knowing(shuffled, Walk()), tmp_path, longer(100))
    assert found.mse.high > 0.95 * found.mean_frame_mse


def test_errors_are_those_of_the_held_out_frames(tmp_path: Path):
    examined = knowing(walks(LENGTHS, held_out=6, draw=True), Walk())
    found = decode(examined, tmp_path / "a", SHORT)
    decoder, steps = train_decoder(examined, tmp_path / "b", SHORT)
    train, test = (examined.frames(split, n) for split, n in (("train", 128), ("test", 40)))
    real = examined.dataset.frames[test] / 255
    mean = examined.dataset.frames[train].mean(0) / 255
    assert found.mean_frame_mse == pytest.approx(np.square(mean - real).mean(), rel=1e-5)
    assert found.mse.value == pytest.approx(np.square(decoder.draw(examined.latents_at(test)) - real).mean(), rel=1e-5)
    assert found.mse.low < found.mse.value < found.mse.high
    assert (found.n, found.n_episodes, found.train_steps, steps) == (40, 6, 30, 30)


def test_frame_statistics_are_numpys():
    frames = np.random.default_rng(0).integers(0, 256, (200, 5, 7, 3)).astype(np.uint8)
    rows = np.arange(0, 200, 2)
    mean, scale = frame_statistics(frames, rows)
    chosen = frames[rows] / 255
    np.testing.assert_allclose(mean.permute(1, 2, 0), chosen.mean(0))
    assert scale == pytest.approx(np.sqrt(np.square(chosen - chosen.mean(0)).mean()))
    assert frame_statistics(np.full_like(frames, 9), rows)[1] == pytest.approx(0, abs=1e-6)


class Convolved(Walk, nn.Module):
    """A world model with weights."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.bias = 0.0
        self.net = nn.Linear(16 * 16 * 3, 2)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return self.net(frames.flatten(2) / 255)


def test_the_model_is_frozen(tmp_path: Path):
    """Even one whose weights would train: not a bit of them changes, and none gets a gradient."""
    model = Convolved()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    examined = knowing(walks(LENGTHS, held_out=6, draw=True), model)
    decode(replace(examined, embed=embed_frames(model, CPU), planner=None), tmp_path, SHORT)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_same_twice_and_another_with_another_seed(tmp_path: Path):
    data = walks(LENGTHS, held_out=6, draw=True)
    first, again, other = (decode(knowing(data, Walk(), seed=s), tmp_path / n, SHORT) for s, n in ((0, "a"), (0, "b"), (1, "c")))  # fmt: skip
    assert first == again != other
    for name in (first.pictures, *first.videos):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_interrupted_training_ends_where_it_would_have(tmp_path: Path, monkeypatch):
    examined = knowing(walks(LENGTHS, held_out=6, draw=True), Walk())
    whole, _ = train_decoder(examined, tmp_path / "whole", SHORT)
    begun: list[int] = []
    real = module.stream

    def counted(*address) -> np.random.Generator:
        begun.append(address[-1])
        if len(begun) == 25:
            raise KeyboardInterrupt
        return real(*address)

    monkeypatch.setattr(module, "stream", counted)
    with pytest.raises(KeyboardInterrupt):
        train_decoder(examined, tmp_path / "killed", SHORT)
    resumed, _ = train_decoder(examined, tmp_path / "killed", SHORT)
    assert begun[-10:] == list(range(20, 30))  # not from the beginning; one more was made ahead of the interrupt
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())
    assert all(path.name.startswith(".") for path in (tmp_path / "killed").iterdir())  # scratch of the cache


def test_a_trained_decoder_is_not_trained_again(tmp_path: Path, monkeypatch):
    examined = knowing(walks(LENGTHS, held_out=6, draw=True), Walk())
    whole = decode(examined, tmp_path / "whole", SHORT)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "write_videos", interrupt)
        decode(examined, tmp_path / "killed", SHORT)
    monkeypatch.setattr(module, "train", interrupt)
    assert decode(examined, tmp_path / "killed", SHORT) == whole
    for name in (whole.pictures, *whole.videos):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_episodes_too_short_for_a_film_are_found_out_before_the_training(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "train", interrupt)
    with pytest.raises(UserError, match=r"raise collect\.steps"):
        decode(knowing(walks([30, 3, 3, 3], held_out=3, draw=True), Walk()), tmp_path, SHORT)


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_pictures_show_the_frames_above_the_decoded_ones(tmp_path: Path):
    examined = knowing(walks(LENGTHS, held_out=6, draw=True), Walk())
    found = decode(examined, tmp_path, SHORT)
    decoder, _ = train_decoder(examined, tmp_path / "again", SHORT)
    rows = examined.frames("test", 5)
    drawn = as_bytes(decoder.draw(examined.latents_at(rows)))
    (sheet,) = pictures(tmp_path / found.pictures)
    side = 16 * 8  # 120 pixels or more
    for row, expected in enumerate((examined.dataset.frames[rows], drawn)):
        top = 2 * videos.LINE + videos.MARGIN + row * (side + videos.LINE + videos.MARGIN)
        for i, frame in enumerate(expected):
            assert (tile(sheet, videos.MARGIN + i * (side + videos.MARGIN), top, 8) == frame).all()
    assert sheet.shape[:2] == (top + side + videos.MARGIN, 5 * (side + videos.MARGIN) + videos.MARGIN)


@pytest.mark.parametrize("model", [Walk(), Walk(bias=1 / 8)])
def test_videos_show_what_happened_beside_what_was_imagined(tmp_path: Path, model: Walk):
    examined = knowing(walks(LENGTHS, held_out=6, draw=True), model)
    found = decode(examined, tmp_path, SHORT)
    clips = examined.clips("test", 3 + 4, 2)
    assert len(found.videos) == 2 and len(np.unique(examined.episodes_of(clips[:, 0]))) == 2
    side = 16 * 12  # 180 pixels or more
    for name, clip in zip(found.videos, clips, strict=True):
        shown = pictures(tmp_path / name)
        assert len(shown) == 5
        assert shown[0].shape[1] == 3 * (side + videos.MARGIN) + videos.MARGIN
        for k, sheet in enumerate(shown):
            lefts = [videos.MARGIN + i * (side + videos.MARGIN) for i in range(3)]
            real, decoded, dreamt = (tile(sheet, left, 2 * videos.LINE + videos.MARGIN, 12) for left in lefts)
            frame = examined.dataset.frames[clip[2 + k]]
            assert np.abs(real - frame).mean() < 3 and np.abs(real - frame).max() < 40  # a palette's error
            same = k == 0 or not model.bias
            assert same == (decoded == dreamt).all()


def test_imagined_panels_draw_the_imagined_latents(monkeypatch, tmp_path: Path):
    examined = knowing(walks(LENGTHS, held_out=6, draw=True), Walk(bias=1 / 8))
    drawn: list[dict[str, np.ndarray]] = []
    monkeypatch.setattr(module, "comparison_video", lambda panels, *_: drawn.append(panels) or b"")
    decode(examined, tmp_path, SHORT)
    decoder, _ = train_decoder(examined, tmp_path / "again", SHORT)
    clips = examined.clips("test", 3 + 4, 2)
    for panels, clip, future in zip(drawn, clips, rolled_out(examined, clips), strict=True):
        assert (panels["real"] == examined.dataset.frames[clip[2:]]).all()
        assert (panels["decoded from real"] == as_bytes(decoder.draw(examined.latents_at(clip[2:])))).all()
        assert (panels["decoded from imagined"][1:] == as_bytes(decoder.draw(future))).all()


def test_small_things_keep_their_colour(tmp_path: Path):
    """A blue dot of four pixels beside thousands of greys."""
    greys = np.linspace(90, 255, 64 * 64).astype(np.uint8).reshape(1, 64, 64, 1).repeat(3, -1)
    dotted = greys.copy()
    dotted[0, 30:32, 30:32] = 65, 105, 225
    (tmp_path / "a.gif").write_bytes(videos.comparison_video({"a": greys, "b": dotted}, "title", ["line"]))
    (sheet,) = pictures(tmp_path / "a.gif")
    panel = tile(sheet, videos.MARGIN + 192 + videos.MARGIN, 2 * videos.LINE + videos.MARGIN, 3, 64)
    assert np.abs(panel[30:32, 30:32] - (65, 105, 225)).max() < 10


def test_panels_must_fit_together():
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    for other in (frames[:1], frames[:, :4], frames / 255):
        with pytest.raises(ValueError, match="one shape"):
            videos.comparison_video({"a": frames, "b": other}, "title", ["", ""])
    with pytest.raises(ValueError, match="T > 0"):
        videos.picture_rows({"a": frames[:0]}, "title")


def test_rollouts_are_no_longer_than_episodes(tmp_path: Path):
    examined = knowing(walks([30, 30, 11, 11, 11], held_out=3, draw=True), Walk())
    found = decode(examined, tmp_path, longer(2, blocks=50))
    assert len(pictures(tmp_path / found.videos[0])) == 1 + 3


@pytest.mark.parametrize(
    ("latent", "height", "width"), [((192,), 224, 224), ((32,), 64, 64), ((9, 6), 20, 28), ((2,), 7, 7)]
)
def test_every_frame_size_is_met(latent: tuple[int, ...], height: int, width: int):
    decoder = Decoder(DecoderConfig(width=2, hidden=8), latent, height, width)
    frames = decoder.draw(torch.randn(3, int(np.prod(latent))))
    assert frames.shape == (3, height, width, 3) and frames.dtype == np.float32
    assert frames.min() >= 0 and frames.max() <= 1


def test_latents_and_frames_that_never_change_are_drawn(tmp_path: Path):
    still = [np.ones((20, 2))] * 4
    data = dataset(still, [np.zeros((19, 2))] * 4, 2, np.full((80, 16, 16, 3), 77, np.uint8))
    found = decode(knowing(data, Walk()), tmp_path, SHORT)
    assert found.mean_frame_mse == pytest.approx(0, abs=1e-8) and np.isfinite(found.mse.value)
