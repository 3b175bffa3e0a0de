#!/usr/bin/env bash
# stable-worldmodel 0.1.1: a LeWM that was saved with transformers 5.8.1 cannot be loaded with 5.9.0, and nothing in it says so.
#
# save_pretrained writes the plain state dict, and load_pretrained asks for the same names. The encoder is the ViT of
# transformers, which renamed its modules in 5.9.0, a minor release (encoder.layer.0.attention.attention.query is now
# layers.0.attention.q_proj, and so on). The new names are mapped in transformers' own from_pretrained, which is not used here.
# stable-worldmodel asks for transformers>=4.50.0 without an upper bound, and config.json holds no version.
# 4.57.6 and 5.0.0 name as 5.8.1 does, 5.24.0 as 5.9.0 does, and the older refuse the newer's files too. So what is needed
# for weights of transformers 4, published ones among them, is transformers<5.9, not <5.
# The error is reported for published weights: lucas-maes/le-wm issues 68, 80 and 95; the renaming is transformers' pull
# request 41693.
# Seen with Python 3.11, stable-pretraining 0.1.8: the three lines at the end.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export SDL_VIDEODRIVER=dummy STABLEWM_HOME="$place/home"
python3 -m venv "$place/env"
install() { "$place/env/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install "stable-worldmodel==0.1.1" "torch==2.14.1" "torchvision==0.29.1" "gymnasium==1.4.0" "numpy==2.4.6" "lancedb==0.40.0" \
    "pylance==14.0.2" "pyarrow==26.0.1" "opencv-python-headless==5.0.0.93" "imageio==2.38.1" "pygame==2.6.1" \
    "pymunk==7.3.1" "shapely==2.2.0" "stable-pretraining==0.1.8" "hydra-core==1.3.8" "transformers==5.8.1"
cat >"$place/try.py" <<'PY'
import sys

import transformers
from hydra.utils import instantiate
from omegaconf import OmegaConf
from stable_worldmodel.wm.utils import load_pretrained, save_pretrained

parts, vit = "stable_worldmodel.wm.lewm.module", "stable_pretraining.backbone.utils.vit_hf"
mlp = {"_target_": f"{parts}.MLP", "input_dim": 192, "output_dim": 192, "hidden_dim": 192}
sizes = {"input_dim": 192, "hidden_dim": 192, "output_dim": 192, "depth": 1, "heads": 3, "dim_head": 64, "mlp_dim": 192}
config = {
    "_target_": "stable_worldmodel.wm.lewm.LeWM",
    "encoder": {"_target_": vit, "size": "tiny", "patch_size": 14, "image_size": 224, "pretrained": False},
    "predictor": {"_target_": f"{parts}.Predictor", "num_frames": 3, **sizes},
    "action_encoder": {"_target_": f"{parts}.Embedder", "input_dim": 2, "emb_dim": 192},
    "projector": mlp,
    "pred_proj": mlp,
}
mine = transformers.__version__
save_pretrained(instantiate(config), mine, OmegaConf.create(config))
for saved in sys.argv[1:]:
    try:
        load_pretrained(saved)
        print(f"with transformers {mine}, saved with {saved}: loaded")
    except RuntimeError as error:
        print(f"with transformers {mine}, saved with {saved}: Missing key(s) {'Missing key(s)' in str(error)}")
PY
try() { "$place/env/bin/python" -W ignore "$place/try.py" "$@" 2>>"$place/noise" | grep "saved with" | tee -a "$place/seen"; }
try 5.8.1
install "transformers==5.9.0"
try 5.8.1 5.9.0
diff "$place/seen" - <<'SEEN'
with transformers 5.8.1, saved with 5.8.1: loaded
with transformers 5.9.0, saved with 5.8.1: Missing key(s) True
with transformers 5.9.0, saved with 5.9.0: loaded
SEEN
