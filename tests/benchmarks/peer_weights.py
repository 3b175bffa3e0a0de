"""stable-worldmodel's side of the proof that weights mean the same here and there (tests/agents/test_peer_weights.py).

    python tests/benchmarks/peer_weights.py environment FOLDER   # makes a virtual environment, some gigabytes
    FOLDER/bin/python tests/benchmarks/peer_weights.py write lewm|pldm|dino-wm|dino-wm:proprio RELEASE ANSWERS.npz
    FOLDER/bin/python tests/benchmarks/peer_weights.py read RELEASE ANSWERS.npz NEW.npz

``write`` builds the peer's model with random weights and BatchNorm statistics, saves it with the peer's own
``save_pretrained``, and writes what it answers: latents, costs of 300 candidates, a plan and the noise of that plan;
of DINO-WM predictions too. Its DINOv2 is a small random one, in the folder ``dinov2`` beside RELEASE.
``read`` loads a release with the peer's own ``load_pretrained``, which is strict, and answers the same questions.
Nothing of lewm-bench is imported: two processes, two environments.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = (
    "stable-worldmodel==0.1.1", "stable-pretraining>=0.1.7", "hydra-core", "transformers<5",
    # What its plain install lacks to be imported.
    "opencv-python-headless", "imageio", "pygame", "pymunk", "shapely", "h5py", "hdf5plugin",
)  # fmt: skip
CANDIDATES, HORIZON, BLOCK, ITERATIONS, ELITES = 300, 5, 10, 10, 30
PROPRIO = 4  # numbers of proprioception
DINOV2 = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def config(package: str, model: str) -> dict:
    """What training with the peer's own scripts saves, written down once more: not taken from lewm-bench."""
    mlp = {
        "_target_": f"{package}.module.MLP",
        "input_dim": 192,
        "output_dim": 192,
        "hidden_dim": 2048,
        "norm_fn": {"_target_": "torch.nn.BatchNorm1d", "_partial_": True},
    }
    return {
        "_target_": model,
        "encoder": {
            "_target_": "stable_pretraining.backbone.utils.vit_hf",
            "size": "tiny",
            "patch_size": 14,
            "image_size": 224,
            "pretrained": False,
            "use_mask_token": False,
        },
        "predictor": {
            "_target_": f"{package}.module.Predictor",
            "num_frames": 3,
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
        "action_encoder": {"_target_": f"{package}.module.Embedder", "input_dim": BLOCK, "emb_dim": 192},
        "projector": mlp,
        "pred_proj": mlp,
    }


CONFIGS = {
    "lewm": config("stable_worldmodel.wm.lewm", "stable_worldmodel.wm.lewm.LeWM"),
    "pldm": config("stable_worldmodel.wm.pldm", "stable_worldmodel.wm.pldm.pldm.PLDM"),
}
DINO_WM = {"dino-wm": ("action",), "dino-wm:proprio": ("proprio", "action")}
"""What each DINO-WM ("PreJEPA") reads beside frames, in the order of the peer's own configuration."""


def dino_wm_config(read: tuple[str, ...], dinov2: Path) -> dict:
    """The like for a DINO-WM, smaller than published so that it is quick; a folder stands for the name of DINOv2."""
    package, numbers = "stable_worldmodel.wm.prejepa.module", {"proprio": PROPRIO, "action": BLOCK}
    return {
        "_target_": "stable_worldmodel.wm.PreJEPA",
        "history_size": 3,
        "num_pred": 1,
        "interpolate_pos_encoding": True,
        "encoder": {"_target_": f"{package}.create_backbone", "name": str(dinov2)},
        "predictor": {
            "_target_": f"{package}.CausalPredictor",
            "num_patches": 256,
            "num_frames": 3,
            "dim": DINOV2["hidden_size"] + 10 * len(read),
            "depth": 2,
            "heads": 2,
            "mlp_dim": 32,
            "dim_head": 8,
            "dropout": 0.1,
            "emb_dropout": 0.0,
        },
        "extra_encoders": {
            "_target_": "torch.nn.ModuleDict",
            "modules": {
                name: {"_target_": f"{package}.Embedder", "in_chans": numbers[name], "emb_dim": 10} for name in read
            },
        },
    }


def make_dinov2(folder: Path) -> None:
    """A random DINOv2 with the published grid of positions, which has to be resampled."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    model = Dinov2Model(Dinov2Config(**DINOV2, image_size=518, patch_size=14, mlp_ratio=2))
    with torch.no_grad():
        model.embeddings.position_embeddings.normal_()
    model.save_pretrained(folder, safe_serialization=True)


def environment(folder: str) -> None:
    venv.create(folder, with_pip=True)
    python = Path(folder) / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", *PACKAGES], check=True)


def write(model_name: str, release: str, answers: str) -> None:
    import numpy as np
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from stable_worldmodel.wm.utils import save_pretrained

    torch.manual_seed(0)
    place = Path(release)
    if model_name in DINO_WM:
        make_dinov2(place.parent / "dinov2")
    said = (
        CONFIGS[model_name] if model_name in CONFIGS else dino_wm_config(DINO_WM[model_name], place.parent / "dinov2")
    )
    model = instantiate(said).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.startswith("backbone.") or (name.endswith(".0.bias") and tensor.dim() == 4):
                continue  # frozen, and masks
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
            elif tensor.is_floating_point():  # open gates too, so that every part matters
                tensor.add_(torch.randn(tensor.shape) * (0.3 if "adaLN" in name or "running" in name else 0.03))
            else:
                tensor.fill_(1234)
    # It saves below a folder "checkpoints" of the cache that it is given; only the two files are wanted.
    save_pretrained(model, "saved", OmegaConf.create(said), cache_dir=str(place.parent / "peer-cache"))
    place.mkdir(parents=True)
    (saved,) = (place.parent / "peer-cache").rglob("saved")
    for name in ("weights.pt", "config.json"):
        (saved / name).rename(place / name)
    generator = torch.Generator().manual_seed(1)
    questions = {
        "frames": torch.randint(0, 256, (1, 3, 3, 224, 224), dtype=torch.uint8, generator=generator),
        "goal": torch.randint(0, 256, (1, 1, 3, 224, 224), dtype=torch.uint8, generator=generator),
        "plans": torch.randn(1, CANDIDATES, HORIZON, BLOCK, generator=generator),
        "actions": torch.randn(1, 3, BLOCK, generator=generator),
        "proprio": torch.randn(1, 3, PROPRIO, generator=generator),  # z-scored
    }
    found = answer_of_dino_wm(model, questions) if model_name in DINO_WM else answer(model, questions)
    np.savez(answers, **{name: t.numpy() for name, t in questions.items()}, **found)


def read(release: str, questions: str, answers: str) -> None:
    import numpy as np
    import torch
    from stable_worldmodel.wm.utils import load_pretrained

    model = load_pretrained(str(Path(release).resolve() / "weights.pt")).eval()
    asked = {name: torch.from_numpy(np.load(questions)[name]) for name in ("frames", "goal", "plans")}
    np.savez(answers, **answer(model, asked))


def normalized(questions) -> tuple:
    """Frames and goal as the peer's own transform hands them over."""
    import torch

    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return tuple((questions[name].float() / 255 - mean) / std for name in ("frames", "goal"))


def searched(model, info, iterations: int) -> dict:
    """A plan (1, H, A) and the noise (I, 1, S, H, A) that found it."""
    from types import SimpleNamespace

    import gymnasium as gym
    import torch
    from stable_worldmodel.solver.cem import CEMSolver

    solver = CEMSolver(model, num_samples=CANDIDATES, n_steps=iterations, topk=ELITES, seed=7)
    space, sizes = gym.spaces.Box(-1, 1, (1, 2)), SimpleNamespace(horizon=HORIZON, action_block=BLOCK // 2)
    solver.configure(action_space=space, n_envs=1, config=sizes)
    generator = torch.Generator().manual_seed(7)
    noise = [torch.randn(1, CANDIDATES, HORIZON, BLOCK, generator=generator) for _ in range(iterations)]
    return {"plan": solver.solve(dict(info))["actions"], "noise": torch.stack(noise)}


def answer(model, questions) -> dict:
    """Latents (1, 3, 192), costs (1, S), and a plan from the first frame."""
    import torch

    frames, goal = normalized(questions)
    info = {"pixels": frames[:, :1], "goal": goal, "action": torch.zeros(1, 1, BLOCK)}
    with torch.inference_mode():
        latents = model.encode({"pixels": frames})["emb"]
        repeated = {k: v[:, None].expand(1, CANDIDATES, *v.shape[1:]) for k, v in info.items()}
        costs = model.get_cost(repeated, questions["plans"].clone())
        plan = searched(model, info, ITERATIONS)
    return {name: tensor.numpy() for name, tensor in {"latents": latents, "costs": costs, **plan}.items()}


def answer_of_dino_wm(model, questions) -> dict:
    """Latents and predictions (1, 3, P, C) without the action's channels, which are the last; costs and a plan.

    With proprioception there are no costs: the peer compares that of the first token, lewm-bench that of all.
    """
    import torch

    frames, goal = normalized(questions)
    info = {"pixels": frames, "action": questions["actions"], "proprio": questions["proprio"]}
    with torch.inference_mode():
        joined = model.encode(dict(info))["emb"]
        found = {"latents": joined[..., :-10], "predictions": model.predict(joined)[..., :-10]}
        if "proprio" not in model.extra_encoders:
            still = {name: torch.zeros(1, 1, 1) for name in ("id", "step_idx")}
            info = {"pixels": frames[:, :1], "goal": goal, "action": torch.zeros(1, 1, BLOCK), **still}
            repeated = {k: v[:, None].expand(1, CANDIDATES, *v.shape[1:]) for k, v in info.items()}
            found["costs"] = model.get_cost(repeated, questions["plans"].clone())
            found |= searched(model, info, 2)
    return {name: tensor.numpy() for name, tensor in found.items()}


if __name__ == "__main__":
    {"environment": environment, "write": write, "read": read}[sys.argv[1]](*sys.argv[2:])
