"""DINO-WM's frozen encoder, and its tokens of the training frames: on disk once per dataset, or anew for every batch.

Shapes: B clips, T frames, P tokens of a frame, C channels of a token.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lewm_bench.agent import AgentConfig, Setting, train_module
from lewm_bench.agents.parts.encoders import (
    STATISTICS_FRAMES,
    Dinov2Encoder,
    LocalEncoder,
    dinov2_folder,
    sample_frames,
)
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.core.source import made_of
from lewm_bench.core.torch_rng import torch_stream
from lewm_bench.system import status
from lewm_bench.system.arrays import read_array
from lewm_bench.system.checkpoint import load_weights
from lewm_bench.system.files import disk_errors, write_text
from lewm_bench.system.phases import phase
from lewm_bench.system.store import read_result
from lewm_bench.train.keeping import NOTHING_KEPT
from lewm_bench.train.ranks import ALONE

ENCODER_SCHEMA, TOKENS_SCHEMA = 2, 3
SECONDS, ENCODING = "pretraining_seconds.json", "encoding_seconds.json"
TOGETHER = 256  # frames that are encoded together
DISK_LIMIT = 32 * 2**30  # bytes that `cache_tokens: auto` takes at most
DISK_SPARE = 2 * 2**30  # bytes that are left free

Encoder = LocalEncoder | Dinov2Encoder
TokenSource = Callable[[np.ndarray], Tensor]
"""Training rows (B, T) of the dataset to their tokens (B, T, P, C) float16."""


def empty_encoder(setting: Setting) -> Encoder:
    """The encoder without its local pretraining, which a checkpoint holds."""
    if setting.config.encoder == "dinov2-small":
        return Dinov2Encoder(dinov2_folder(setting.config.weights), setting.config.frames)
    return LocalEncoder(setting.config.local, setting.config.encoder, setting.image_size)


def frozen_encoder(setting: Setting) -> Encoder:
    """The encoder, pretrained (once per dataset, whatever the seed) if it is a local one."""
    with torch_stream(setting.seed, "init", "encoder"):
        encoder = empty_encoder(setting)
    if isinstance(encoder, LocalEncoder):
        folder = setting.store.stage("encoder", encoder_spec(setting, encoder), lambda work: pretrain(setting, work))
        load_weights(encoder, folder)
    return encoder.to(setting.device).eval()


def encoder_spec(setting: Setting, encoder: Encoder) -> dict:
    """What determines the tokens of a dataset."""
    data = [setting.dataset_key, setting.dataset.fingerprint]
    spec = {"dataset": data, "encoder": setting.config.encoder, "device": setting.device.type}
    spec["packages"] = dict(made_of([__name__]).packages)
    if isinstance(encoder, Dinov2Encoder):
        return spec | {"schema": ENCODER_SCHEMA, "weights": encoder.identity.hex()}
    return spec | {"schema": ENCODER_SCHEMA, "local": setting.config.local.model_dump(mode="json")}


def pretraining_seconds(setting: Setting, encoder: Encoder) -> float:
    """What the local encoder's pretraining took; 0 for an encoder that others have trained."""
    folder = setting.store.find("encoder", encoder_spec(setting, encoder))
    return 0.0 if folder is None else read_result(folder, SECONDS)


def pretrain(setting: Setting, work: Path) -> None:
    """Pretrain the local encoder on frames of the training episodes and leave its checkpoint in ``work``."""
    config, dataset = setting.config.local, setting.dataset
    name, own = f"{setting.config.encoder} encoder", AgentConfig(train=config.train)
    # Small, and its masks are of whole batches.
    inner = replace(setting, config=own, seed=0, agent=name, keeping=NOTHING_KEPT, ranks=ALONE)
    rows = dataset.rows("train")
    statistics = sample_frames(dataset, STATISTICS_FRAMES)

    def build() -> LocalEncoder:
        encoder = LocalEncoder(config, setting.config.encoder, setting.image_size)
        encoder.fit_frames(statistics)
        return encoder

    def batch(index: int) -> tuple[Tensor]:
        return (frames_of(setting, stream(0, "encoder batch", index).choice(rows, config.train.batch_size)),)

    def finish(encoder: LocalEncoder) -> None:
        encoder.fit(statistics.to(setting.device))

    with phase("training: other"), status.doing(setting.store.root, f"train the {inner.agent}, {setting.env_id}"):
        log = train_module(inner, build, batch, work, finish)
    write_text(work / SECONDS, json.dumps(log.seconds))


def frames_of(setting: Setting, rows: np.ndarray) -> Tensor:
    """(N,) rows to frames (N, 3, h, w) uint8."""
    return torch.from_numpy(np.moveaxis(setting.dataset.frames[rows], -1, 1).copy())


@torch.no_grad()
def encoded(setting: Setting, encoder: nn.Module, rows: np.ndarray) -> Tensor:
    """(N,) rows to tokens (N, P, C) float16 on the setting's device."""
    parts = (rows[begin : begin + TOGETHER] for begin in range(0, len(rows), TOGETHER))
    return torch.cat([encoder(frames_of(setting, part).to(setting.device)).half() for part in parts])


def token_source(setting: Setting, encoder: Encoder) -> TokenSource:
    """Where training takes its tokens from, as ``cache_tokens`` says."""
    if not to_disk(setting, encoder):
        return lambda rows: encoded(setting, encoder, rows.ravel()).unflatten(0, rows.shape)
    kept, tokens = cached_tokens(setting, encoder)
    return lambda rows: torch.from_numpy(tokens[np.searchsorted(kept, rows)])


def to_disk(setting: Setting, encoder: Encoder) -> bool:
    """Whether the tokens go to disk, or are there; ``auto`` asks for their size and for the room."""
    if setting.config.cache_tokens != "auto":
        return setting.config.cache_tokens == "disk"
    if setting.store.find("tokens", tokens_spec(setting, encoder)) is not None:
        return True
    return token_bytes(setting, encoder) <= min(DISK_LIMIT, free_bytes(setting.store.root) - DISK_SPARE)


def tokens_spec(setting: Setting, encoder: Encoder) -> dict:
    return {"tokens": TOKENS_SCHEMA, **encoder_spec(setting, encoder)}


def token_bytes(setting: Setting, encoder: Encoder) -> int:
    """The size of all training tokens in float16."""
    return len(setting.dataset.rows("train")) * encoder.num_tokens * encoder.size * 2


def free_bytes(folder: Path) -> int:
    """Free space of the disk that holds ``folder``, or will."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def cached_tokens(setting: Setting, encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """The training rows (rows,) and their tokens (rows, P, C) float16, memory-mapped; computed once per dataset.

    Raises:
        UserError: the disk has no room for them.
    """
    rows = setting.dataset.rows("train")
    spec = tokens_spec(setting, encoder)

    def build(work: Path) -> None:
        begin = time.perf_counter()
        with phase("encoding frames"), status.doing(setting.store.root, f"encode frames of {setting.env_id}"):
            share = write_tokens(setting, encoder, rows, work / "tokens.npy")
        seconds = (time.perf_counter() - begin) / share if share else 0.0
        write_text(work / ENCODING, json.dumps(seconds))

    folder = setting.store.stage("tokens", spec, build)
    return rows, read_array(folder / "tokens.npy", np.float16, 3, f"delete {folder} and run the same command again")


def encoding_seconds(setting: Setting, encoder: Encoder) -> float:
    """What encoding the training frames once took; 0 where every batch is encoded anew, inside the training's time."""
    if not to_disk(setting, encoder):
        return 0.0
    folder = setting.store.find("tokens", tokens_spec(setting, encoder))
    return 0.0 if folder is None else read_result(folder, ENCODING)


def write_tokens(setting: Setting, encoder: Encoder, rows: np.ndarray, path: Path) -> float:
    """Encode all rows into ``path``, going on behind what an interrupted call has written; the share done this time."""
    header = npy_header((len(rows), encoder.num_tokens, encoder.size))
    frame = encoder.num_tokens * encoder.size * 2
    written = path.stat().st_size if path.is_file() else 0
    check_room(len(header) + len(rows) * frame - written, len(rows), path)
    done = max(0, written - len(header)) // frame // TOGETHER * TOGETHER  # the same chunks as without interruption
    # Plain writes, not a memory map: a full disk then raises an error instead of killing the process.
    with disk_errors(path), path.open("r+b" if written else "wb") as file:
        file.write(header)
        file.truncate(len(header) + done * frame)
        file.seek(0, io.SEEK_END)
        for begin in tqdm(range(done, len(rows), TOGETHER), "encode frames", disable=not setting.progress, leave=False):
            file.write(encoded(setting, encoder, rows[begin : begin + TOGETHER]).cpu().numpy().tobytes())
            status.at(min(begin + TOGETHER, len(rows)), len(rows))
    return 1 - done / len(rows)


def check_room(needed: int, frames: int, path: Path) -> None:
    """Raise unless ``needed`` more bytes fit on the disk."""
    free = free_bytes(path.parent)
    if needed > free - DISK_SPARE:
        raise UserError(
            f"the tokens of {frames} frames need {needed / 2**30:.1f} GiB more in {path.parent.parent}, where "
            f"{free / 2**30:.1f} GiB are free; choose another --cache, or encode anew for every batch with "
            "--set dino-wm.cache_tokens=never"
        )


def npy_header(shape: tuple[int, ...]) -> bytes:
    """The beginning of a .npy file of float16 numbers."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return buffer.getvalue()
