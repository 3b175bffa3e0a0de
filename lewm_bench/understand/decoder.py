"""Pictures of latents: a decoder trained after the fact on frozen latents, and imagined rollouts beside real ones.

It only reads latents of the trained model, which are computed once; no gradient reaches the model. What it cannot draw
the latent does not show; what it draws well may still be its own memory of the training frames, hence held-out ones.

Shapes: N frames or clips, D numbers of a latent laid flat, P tokens, C channels, H blocks, h w pixels.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.core.config import Config
from lewm_bench.core.formatting import short
from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import cluster_sums, percentile_interval, resampled_sums
from lewm_bench.core.torch_rng import torch_stream
from lewm_bench.data.videos import comparison_video, picture_rows
from lewm_bench.system.checkpoint import load_strict, load_tensors, save_tensors
from lewm_bench.system.files import write_bytes
from lewm_bench.train.loop import Step, TrainConfig, train
from lewm_bench.understand.model import PIECE, ExaminedModel
from lewm_bench.understand.open_loop import possible_horizon, rolled_out
from lewm_bench.understand.records import Decoded, Interval

TOKEN = 16  # numbers that a token of a latent of tokens is shortened to
BASE = 8  # pixels at most of the grid that is upsampled
CHANNELS = 256  # at most
PICTURES = "frames.png"
TRAINED = ".decoder.safetensors"  # scratch of the cache, gone when the stage is complete


class DecoderConfig(Config):
    """Size of the decoder and what is drawn with it."""

    frames: int = Field(16_384, ge=2, description="frames of training episodes that it learns from, at most")
    test_frames: int = Field(1024, ge=2, description="held-out frames that it is measured on, at most")
    hidden: int = Field(512, ge=1, description="width of its first layers")
    width: int = Field(16, ge=1, description="channels at full resolution, twice as many at each lower one")
    pictures: int = Field(8, ge=1, description="held-out frames drawn")
    videos: int = Field(3, ge=1, description="imagined rollouts drawn")
    blocks: int = Field(10, ge=1, description="blocks of an imagined rollout")
    train: TrainConfig = Field(
        TrainConfig(steps=10_000, batch_size=64, learning_rate=2e-3, warmup=0.05),
        description="optimisation of the decoder",
    )


class Decoder(nn.Module):
    """Latents (N, D) to frames (N, 3, h, w) in [0, 1]: an MLP to a small grid, then upsampling convolutions.

    It predicts the difference to the mean training frame, so a static background costs nothing to learn, in units of
    that difference's deviation. The loss is the plain mean square: weights for pixels that vary, or for those far from
    the mean, drew the small ball of PointMaze no sharper, and the background worse.

    ReLU for its exact zeros: smooth units, silenced where nothing moves, underflow, and a CPU takes five times as long.
    """

    def __init__(self, config: DecoderConfig, latent: tuple[int, ...], height: int, width: int) -> None:
        """``latent``: the shape of one, (D,) or (P, C)."""
        super().__init__()
        self.latent = latent
        size = math.prod(latent)
        levels = max(1, math.ceil(math.log2(max(height, width) / BASE)))
        grid = math.ceil(height / 2**levels), math.ceil(width / 2**levels)
        channels = [min(CHANNELS, config.width * 2**k) for k in reversed(range(levels))]
        tokens = len(latent) > 1
        self.shorten = nn.Linear(latent[-1], TOKEN) if tokens else nn.Identity()
        inputs = size // latent[-1] * TOKEN if tokens else size
        self.mlp = nn.Sequential(
            nn.Linear(inputs, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, channels[0] * math.prod(grid)),
            nn.ReLU(),
            nn.Unflatten(1, (channels[0], *grid)),
        )
        layers: list[nn.Module] = []
        for before, after in zip([channels[0], *channels], channels, strict=False):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        self.upsample = nn.Sequential(*layers, nn.Conv2d(channels[-1], 3, 3, padding=1))
        self.register_buffer("latent_mean", torch.zeros(size))
        self.register_buffer("latent_std", torch.ones(size))
        self.register_buffer("mean_frame", torch.zeros(3, height, width))
        self.register_buffer("scale", torch.ones(()))

    def fit(self, latents: Tensor, mean_frame: Tensor, scale: float) -> None:
        """Take the statistics of training latents (N, D), the mean frame (3, h, w) and the deviation from it."""
        std, mean = torch.std_mean(latents, 0, correction=0)
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(torch.where(std > 0, std, 1.0))
        self.mean_frame.copy_(mean_frame)
        self.scale.fill_(scale or 1.0)

    def differences(self, latents: Tensor) -> Tensor:
        """(N, D) to (N, 3, h, w): frames minus the mean frame over ``scale``."""
        x = (latents - self.latent_mean) / self.latent_std
        x = self.mlp(self.shorten(x.unflatten(1, self.latent)).flatten(1))
        # On a CPU convolutions take half the time in this order.
        drawn = self.upsample(x.contiguous(memory_format=torch.channels_last))
        return drawn[..., : self.mean_frame.shape[1], : self.mean_frame.shape[2]]

    def forward(self, latents: Tensor) -> Tensor:
        return (self.mean_frame + self.scale * self.differences(latents)).clamp(0, 1)

    def loss(self, batch: tuple[Tensor, Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error over all pixels of latents (N, D) and their frames (N, 3, h, w) uint8."""
        del step  # nothing is drawn
        latents, frames = batch
        error = (self.differences(latents) - (frames / 255 - self.mean_frame) / self.scale).square().mean()
        return error, {"pixels": error * self.scale.square()}

    @torch.inference_mode()
    def draw(self, latents: Tensor) -> np.ndarray:
        """(N, D) latents to (N, h, w, 3) frames in [0, 1]."""
        pieces = [self(part.to(self.scale.device)).cpu() for part in latents.split(PIECE)]
        return torch.cat(pieces).permute(0, 2, 3, 1).numpy()


def decode(examined: ExaminedModel, folder: Path, config: DecoderConfig, progress: bool = False) -> Decoded:
    """Train a decoder of the model's latents, measure it on held-out frames, and draw pictures and videos.

    Args:
        folder: of this model and config alone: an interrupted training goes on from what it left there. Pictures and
            videos are written into it.
    """
    clips = film_clips(
        examined, config
    )  # first: episodes that are too short are found out before a training, not after
    decoder = load_or_train(examined, folder, config, progress)
    rows = examined.frames("test", config.test_frames)
    errors, floor = _errors(decoder, examined, rows)
    episodes = examined.episodes_of(rows)
    sums = cluster_sums(np.stack([errors, np.ones(len(rows))], 1), episodes)
    draws = resampled_sums(sums, stream(0, "understanding", "decoder", examined.env_id))
    return Decoded(
        train_steps=config.train.steps,
        mse=Interval.of(percentile_interval(float(errors.mean()), draws[:, 0] / draws[:, 1])),
        mean_frame_mse=float(floor.mean()),
        pictures=write_pictures(decoder, examined, folder, config),
        videos=write_videos(decoder, examined, folder, clips),
        n=len(rows),
        n_episodes=len(sums),
    )


def load_or_train(examined: ExaminedModel, folder: Path, config: DecoderConfig, progress: bool = False) -> Decoder:
    """A trained decoder: the one that a kill between its training and the last film has left, or a new one."""
    path = folder / TRAINED
    if not path.is_file():
        decoder, _ = train_decoder(examined, folder, config, progress)
        save_tensors(path, decoder.state_dict())
        return decoder
    decoder = new_decoder(examined, config)
    load_strict(decoder, load_tensors(path), str(path))
    return decoder.to(examined.device).eval()


def new_decoder(examined: ExaminedModel, config: DecoderConfig) -> Decoder:
    """A decoder of the model's latents and frames with random weights."""
    dataset, row = examined.dataset, examined.frames("train", config.frames)[:1]
    one = torch.from_numpy(np.array(np.moveaxis(dataset.frames[row], -1, -3)))
    with torch.inference_mode():
        shape = tuple(examined.embed(one, dataset.states[row]).shape[1:])
    with torch_stream(examined.seed, "init", "decoder"):
        return Decoder(config, shape, *dataset.frames.shape[1:3])


def train_decoder(
    examined: ExaminedModel, folder: Path, config: DecoderConfig, progress: bool = False
) -> tuple[Decoder, int]:
    """A decoder trained on latents of training frames, and its number of steps."""
    rows = examined.frames("train", config.frames)
    dataset = examined.dataset
    latents = examined.latents_at(rows).clone()  # no inference tensor, which could take no part in a training
    decoder = new_decoder(examined, config)
    decoder.fit(latents, *frame_statistics(dataset.frames, rows))
    decoder.to(examined.device)

    def batch(index: int) -> tuple[Tensor, Tensor]:
        chosen = stream(examined.seed, "decoder batch", index).integers(len(rows), size=config.train.batch_size)
        return latents[chosen], torch.from_numpy(np.moveaxis(dataset.frames[rows[chosen]], -1, -3))

    train(
        decoder,
        batch,
        config.train,
        seed=examined.seed,
        device=examined.device,
        folder=folder,
        description=f"train decoder of {examined.agent}",
        progress=progress,
    )
    return decoder, config.train.steps


def frame_statistics(frames: np.ndarray, rows: np.ndarray) -> tuple[Tensor, float]:
    """The mean (3, h, w) of frames in [0, 1], and the root mean square of differences to it over frames and pixels."""
    total, squares = np.zeros(frames.shape[1:]), np.zeros(frames.shape[1:])
    for k in range(0, len(rows), PIECE):
        piece = frames[rows[k : k + PIECE]] / 255
        total += piece.sum(0)
        squares += np.square(piece).sum(0)
    mean = total / len(rows)
    variance = np.maximum(squares / len(rows) - np.square(mean), 0)
    return torch.from_numpy(np.moveaxis(mean, -1, 0)), float(np.sqrt(variance.mean()))


def _errors(decoder: Decoder, examined: ExaminedModel, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared errors (N,) of frames drawn from their latents, and of the mean training frame."""
    mean = decoder.mean_frame.cpu().permute(1, 2, 0).numpy()
    drawn, floor = [], []
    for k in range(0, len(rows), PIECE):
        piece = rows[k : k + PIECE]
        real = examined.dataset.frames[piece] / 255
        drawn.append(np.square(decoder.draw(examined.latents_at(piece)) - real).mean((1, 2, 3)))
        floor.append(np.square(mean - real).mean((1, 2, 3)))
    return np.concatenate(drawn), np.concatenate(floor)


def as_bytes(frames: np.ndarray) -> np.ndarray:
    """Frames in [0, 1] as uint8."""
    return (frames * 255).round().astype(np.uint8)


def write_pictures(decoder: Decoder, examined: ExaminedModel, folder: Path, config: DecoderConfig) -> str:
    """Write held-out frames, chosen at random, above what is drawn from their latents; returns the file's name."""
    rows = examined.frames("test", config.pictures)
    drawn = as_bytes(decoder.draw(examined.latents_at(rows)))
    name = f"{examined.agent}, {short(examined.env_id)}: held-out frames chosen at random"
    data = picture_rows({"real": examined.dataset.frames[rows], "decoded from its latent": drawn}, name)
    write_bytes(folder / PICTURES, data)
    return PICTURES


def film_clips(examined: ExaminedModel, config: DecoderConfig) -> np.ndarray:
    """Rows (N, T) of the held-out clips whose rollouts are shown.

    Raises:
        UserError: no episode is long enough.
    """
    horizon = possible_horizon(examined, config.blocks)
    return examined.clips("test", examined.model.history + horizon, config.videos)


def write_videos(decoder: Decoder, examined: ExaminedModel, folder: Path, clips: np.ndarray) -> tuple[str, ...]:
    """Write imagined rollouts of held-out clips (N, T) beside what happened; returns the files' names.

    The first picture is the last frame that the model sees, so both decoded panels show the same latent there.
    """
    seen = examined.model.history
    names = []
    for number, (clip, future) in enumerate(zip(clips, rolled_out(examined, clips), strict=True)):
        shown = clip[seen - 1 :]
        real = examined.latents_at(shown)
        panels = {
            "real": examined.dataset.frames[shown],
            "decoded from real": as_bytes(decoder.draw(real)),
            "decoded from imagined": as_bytes(decoder.draw(torch.cat([real[:1], future]))),
        }
        ahead = [f"{k * examined.model.frame_skip} steps imagined ahead" for k in range(1, len(shown))]
        lines = [f"the model sees {'this frame' if seen == 1 else f'{seen} frames up to here'}", *ahead]
        title = f"{examined.agent}, {short(examined.env_id)}, held-out episode {examined.episodes_of(clip[:1])[0]}"
        names.append(f"imagined-{number + 1}.gif")
        write_bytes(folder / names[-1], comparison_video(panels, title, lines))
    return tuple(names)
