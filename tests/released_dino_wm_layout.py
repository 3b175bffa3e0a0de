"""The layouts in which stable-worldmodel ("PreJEPA") and jepa-wms save their DINO-WM, small, written from their code.

The predictor is the same: ``prediction`` is what it computes, in float64. Nothing of ours is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH, PROPRIO, ACTION = 24, 6, 10  # channels of a token, of proprioception and of the action
DEPTH, HEADS, HEAD, HIDDEN = 2, 2, 8, 32
PATCHES, FRAMES = 256, 2


def make_dinov2(folder: Path) -> dict[str, Tensor]:
    """A random DINOv2 as its weights are published, with the published grid of positions; its tensors."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, image_size=518, patch_size=14, mlp_ratio=2
    )
    model = Dinov2Model(config)
    torch.nn.init.normal_(model.embeddings.position_embeddings)
    model.save_pretrained(folder, safe_serialization=True)
    return {f"backbone.{name}": tensor.clone() for name, tensor in model.state_dict().items()}


def random_tensors(
    inputs: int, felt: int, frames: int = FRAMES, heads: int = HEADS, head: int = HEAD, patches: int = PATCHES
) -> dict[str, Tensor]:
    """The state dict beside DINOv2, for ``inputs`` numbers of an action block and ``felt`` of proprioception."""
    width = WIDTH + ACTION + (PROPRIO if felt else 0)
    shapes: dict[str, tuple[int, ...]] = {"predictor.pos_embedding": (1, frames * patches, width)}

    def put(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, weight[:1]

    put("predictor.transformer.norm", width)
    for i in range(DEPTH):
        layer = f"predictor.transformer.layers.{i}"
        put(f"{layer}.0.norm", width)
        shapes[f"{layer}.0.to_qkv.weight"] = (3 * heads * head, width)
        put(f"{layer}.0.to_out.0", width, heads * head)
        put(f"{layer}.1.net.0", width)
        put(f"{layer}.1.net.1", HIDDEN, width)
        put(f"{layer}.1.net.4", width, HIDDEN)
    if felt:
        put("extra_encoders.proprio.patch_embed", PROPRIO, felt, 1)
    put("extra_encoders.action.patch_embed", ACTION, inputs, 1)
    generator = torch.Generator().manual_seed(0)
    found = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    frame = torch.arange(frames).repeat_interleave(patches)
    mask = (frame[:, None] >= frame).float()[None, None]
    return found | {f"predictor.transformer.layers.{i}.0.bias": mask.clone() for i in range(DEPTH)}


def jepa_wms(inputs: int, felt: int, frames: int = 4, patches: int = PATCHES) -> dict[str, Any]:
    """What one of its files holds: positions for four frames, and the published heads, which no shape tells."""
    found: dict[str, Any] = {"opt": {"state": {}, "param_groups": [{"lr": 1e-3}]}, "scaler": None, "epoch": 50}
    for name, tensor in random_tensors(inputs, felt, frames, 16, 64, patches).items():
        part, _, rest = name.removeprefix("extra_encoders.").partition(".")
        found.setdefault(part if part == "predictor" else f"{part}_encoder", {})[rest] = tensor
    return found


def prediction(tensors: dict[str, Tensor], x: Tensor, heads: int) -> Tensor:
    """(N, T, P, W) tokens with all channels to the next frame's, at every frame."""
    t = {name: tensor.double() for name, tensor in tensors.items()}
    frames, patches = x.shape[1:3]
    x = x.double().flatten(1, 2)
    x = x + t["predictor.pos_embedding"][:, : x.shape[1]]
    later = torch.arange(frames).repeat_interleave(patches)
    hidden = later[:, None] < later

    def norm(name: str, y: Tensor) -> Tensor:
        return F.layer_norm(y, y.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], 1e-5)

    def linear(name: str, y: Tensor) -> Tensor:
        return F.linear(y, t[f"{name}.weight"], t.get(f"{name}.bias"))

    for i in range(DEPTH):
        attention, mlp = (f"predictor.transformer.layers.{i}.{k}" for k in (0, 1))
        parts = linear(f"{attention}.to_qkv", norm(f"{attention}.norm", x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(hidden, float("-inf"))
        x = x + linear(f"{attention}.to_out.0", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x + linear(f"{mlp}.net.4", F.gelu(linear(f"{mlp}.net.1", norm(f"{mlp}.net.0", x))))
    return norm("predictor.transformer.norm", x).unflatten(1, (frames, patches))


def sizes(inputs: int, felt: int) -> dict[str, Any]:
    """``config.json``, with targets that exist nowhere but for the one that names the model."""
    read = {"proprio": (felt, PROPRIO), "action": (inputs, ACTION)} if felt else {"action": (inputs, ACTION)}
    return {
        "_target_": "stable_worldmodel.wm.PreJEPA",
        "history_size": FRAMES,
        "num_pred": 1,
        "interpolate_pos_encoding": True,
        "encoder": {"_target_": "somewhere.create_backbone", "name": "dinov2_small"},
        "predictor": {
            "_target_": "somewhere.CausalPredictor",
            "num_patches": PATCHES,
            "num_frames": FRAMES,
            "dim": WIDTH + sum(channels for _, channels in read.values()),
            "depth": DEPTH,
            "heads": HEADS,
            "mlp_dim": HIDDEN,
            "dim_head": HEAD,
            "dropout": 0.1,
            "emb_dropout": 0.0,
        },
        "extra_encoders": {
            "_target_": "torch.nn.ModuleDict",
            "modules": {
                name: {"_target_": "somewhere.Embedder", "in_chans": numbers, "emb_dim": channels}
                for name, (numbers, channels) in read.items()
            },
        },
    }
