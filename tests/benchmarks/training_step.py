"""Our training step of LeWM at paper size beside stable-worldmodel's modules: the same weights, one process, in turns.

Not part of the test suite; it needs an environment of its own in which both packages are installed:

    python -m venv peer && . peer/bin/activate
    pip install -e . "stable-worldmodel==0.1.1" transformers opencv-python-headless imageio pygame pymunk shapely
    python tests/benchmarks/training_step.py --rounds 10

A step is the forward pass of 8 clips of 4 frames, prediction error and SIGReg, gradients, clipping to norm 1 and fused AdamW.
The peer's encoder is transformers' ViT-Tiny, which its own training builds; it gets normalised frames, which its loader
makes, ours gets bytes. Prints seconds and ratios, also in processor seconds, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

from lewm_bench.cli.app import SPIN
from lewm_bench.system.resources import keep_memory

os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
keep_memory()

import torch
from stable_worldmodel.wm.lewm import LeWM as PeerLeWM
from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor
from stable_worldmodel.wm.loss import SIGReg
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from lewm_bench.agents.lewm import LeWM, LeWMConfig
from lewm_bench.agents.parts.released import renamed
from lewm_bench.core.types import Clip
from lewm_bench.system.provenance import hardware
from lewm_bench.train.loop import Step, TrainConfig, make_optimizer

CONFIG, TRAIN = LeWMConfig(), TrainConfig()


def models() -> tuple[LeWM, PeerLeWM]:
    """The same LeWM twice, at the published size."""
    torch.manual_seed(0)
    size = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    predictor = {"num_frames": 3, "depth": 6, "heads": 16, "mlp_dim": 2048, "input_dim": 192, "hidden_dim": 192}
    theirs = PeerLeWM(
        ViTModel(ViTConfig(**size, patch_size=14, image_size=224), add_pooling_layer=False),
        Predictor(**predictor, dim_head=64, dropout=CONFIG.dropout),
        Embedder(input_dim=10, emb_dim=192),
        *(MLP(192, 2048, 192, norm_fn=nn.BatchNorm1d) for _ in range(2)),
    )
    ours = LeWM(CONFIG, 224, 2)
    weights = {renamed(name): tensor for name, tensor in theirs.state_dict().items()}
    own = {name: t for name, t in ours.state_dict().items() if name.startswith("action_scale")}
    ours.load_state_dict(weights | own)
    return ours, theirs


def our_loss(model: LeWM, clip: Clip, index: int) -> Tensor:
    return model.loss(clip, Step(index, TRAIN.steps, torch.Generator().manual_seed(index), log=False))[0]


def peer_loss(model: PeerLeWM, sigreg: SIGReg, frames: Tensor, actions: Tensor) -> Tensor:
    found = model.encode({"pixels": frames, "action": actions})
    latents = found["emb"]
    predicted = model.predict(latents[:, :-1], found["act_emb"])
    return (predicted - latents[:, 1:]).square().mean() + CONFIG.sigreg_weight * sigreg(latents.transpose(0, 1))


def stepping(model: nn.Module, loss: Callable[[int], Tensor]) -> Callable[[int], None]:
    optimizer = make_optimizer(model, TRAIN)

    def step(index: int) -> None:
        optimizer.zero_grad()
        loss(index).backward()
        nn.utils.clip_grad_norm_(model.parameters(), TRAIN.clip_norm)
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--clips", type=int, default=8)
    options = parser.parse_args()
    ours, theirs = models()
    generator = torch.Generator().manual_seed(1)
    stored = torch.randint(0, 256, (options.clips, 4, 224, 224, 3), dtype=torch.uint8, generator=generator)
    clip = Clip(stored.permute(0, 1, 4, 2, 3), torch.randn(options.clips, 3, 10, generator=generator))
    frames, sigreg = ours.normalize(clip.frames).contiguous(), SIGReg(CONFIG.num_knots, CONFIG.num_directions)
    with torch.no_grad():
        latents, expected = ours.eval().encode(clip.frames), theirs.eval().encode({"pixels": frames})["emb"]
    print(
        f"latents differ by at most {((latents - expected).abs().max() / expected.abs().max()).item():.1e} of the largest"
    )
    contestants = {
        "stable-worldmodel": stepping(theirs.train(), lambda _: peer_loss(theirs, sigreg, frames, clip.actions)),
        "lewm-bench": stepping(ours.train(), lambda index: our_loss(ours, clip, index)),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for turn in range(options.rounds + 1):
        for name, step in contestants.items():
            begin = time.perf_counter(), time.process_time()
            step(turn)
            if turn:  # the first is discarded
                times[name].append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    for column, kind in enumerate(("seconds", "processor seconds")):
        for summary in (min, statistics.median):
            peer, own = (summary(t[column] for t in times[name]) for name in ("stable-worldmodel", "lewm-bench"))
            print(
                f"{kind}, {summary.__name__} of {options.rounds}: {own:.3f} against {peer:.3f}, ratio {own / peer:.3f}"
            )
    print(f"{torch.get_num_threads()} threads; {hardware(torch.device('cpu'))}; torch {torch.__version__}")


if __name__ == "__main__":
    main()
