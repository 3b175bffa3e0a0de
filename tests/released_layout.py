"""The layout in which LeWM's authors release weights, written down from its documentation and from none of our code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def released(inputs: int, image_size: int = 224, history: int = 3) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released state dicts, for ``inputs`` numbers of an action block."""
    table: dict[str, tuple[int, ...]] = {}

    def put(name: str, *weight: int) -> None:
        """A weight and a bias of its first dimension."""
        table[f"{name}.weight"], table[f"{name}.bias"] = weight, weight[:1]

    table["encoder.embeddings.cls_token"] = (1, 1, 192)
    table["encoder.embeddings.position_embeddings"] = (1, (image_size // 14) ** 2 + 1, 192)
    put("encoder.embeddings.patch_embeddings.projection", 192, 3, 14, 14)
    for i in range(12):
        layer = f"encoder.encoder.layer.{i}"
        for name in ("query", "key", "value"):
            put(f"{layer}.attention.attention.{name}", 192, 192)
        put(f"{layer}.attention.output.dense", 192, 192)
        put(f"{layer}.intermediate.dense", 768, 192)
        put(f"{layer}.output.dense", 192, 768)
        put(f"{layer}.layernorm_before", 192)
        put(f"{layer}.layernorm_after", 192)
    put("encoder.layernorm", 192)
    table["predictor.pos_embedding"] = (1, history, 192)
    put("predictor.transformer.norm", 192)
    for i in range(6):
        layer = f"predictor.transformer.layers.{i}"
        put(f"{layer}.attn.norm", 192)
        table[f"{layer}.attn.to_qkv.weight"] = (3072, 192)
        put(f"{layer}.attn.to_out.0", 192, 1024)
        put(f"{layer}.mlp.net.0", 192)
        put(f"{layer}.mlp.net.1", 2048, 192)
        put(f"{layer}.mlp.net.4", 192, 2048)
        put(f"{layer}.adaLN_modulation.1", 1152, 192)
    put("action_encoder.patch_embed", 10, inputs, 1)
    put("action_encoder.embed.0", 768, 10)
    put("action_encoder.embed.2", 192, 768)
    for name in ("projector", "pred_proj"):
        put(f"{name}.net.0", 2048, 192)
        put(f"{name}.net.1", 2048)
        table[f"{name}.net.1.running_mean"] = table[f"{name}.net.1.running_var"] = (2048,)
        table[f"{name}.net.1.num_batches_tracked"] = ()
        put(f"{name}.net.3", 192, 2048)
    return table


def modern(name: str) -> str:
    """A tensor's name in transformers since 5.9, by the documented renames in their order."""
    if not name.startswith("encoder."):
        return name
    for old, new in (
        ("encoder.encoder.layer.", "encoder.layers."),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        (".output.dense", ".mlp.fc2"),
    ):
        name = name.replace(old, new)
    return name


def random_tensors(inputs: int, image_size: int = 224, history: int = 3) -> dict[str, Tensor]:
    """A state dict that is no initialisation: every tensor matters."""
    return random_values(released(inputs, image_size, history))


def random_values(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of these names and shapes."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            found[name] = torch.tensor(1234)
        elif name.endswith("running_var"):
            found[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            found[name] = 0.05 * torch.randn(shape, generator=generator)
    return found


def sizes(inputs: int, image_size: int = 224, history: int = 3) -> dict[str, Any]:
    """``config.json``, with targets that exist nowhere: they are to be ignored."""
    mlp = {
        "_target_": "somewhere.MLP",
        "input_dim": 192,
        "output_dim": 192,
        "hidden_dim": 2048,
        "norm_fn": {"_target_": "torch.nn.BatchNorm1d", "_partial_": True},
    }
    return {
        "_target_": "os.system",
        "_anything_": ["ignored"],
        "encoder": {
            "_target_": "somewhere.vit",
            "size": "tiny",
            "patch_size": 14,
            "image_size": image_size,
            "pretrained": False,
            "use_mask_token": False,
        },
        "predictor": {
            "_target_": "somewhere.Predictor",
            "num_frames": history,
            "input_dim": 192,
            "hidden_dim": 192,
            "output_dim": 192,
            "depth": 6,
            "heads": 16,
            "mlp_dim": 2048,
            "dim_head": 64,
            "dropout": 0.1,
            "emb_dropout": 0.0,
        },
        "action_encoder": {"_target_": "somewhere.Embedder", "input_dim": inputs, "emb_dim": 192},
        "projector": dict(mlp),
        "pred_proj": dict(mlp),
    }


def write_release(folder: Path, tensors: Any, config: Mapping[str, Any] | str) -> Path:
    """The two files of a release."""
    folder.mkdir(parents=True)
    torch.save(tensors, folder / "weights.pt")
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder
