#!/usr/bin/env bash
# lightning-fabric 2.6.6: on one device `precision="bf16-mixed"` reaches forward and not a method that is marked as one.
#
# `mark_forward_method("loss")` is for models whose training calls something else than forward. The marked method goes
# through Fabric's precision only where the strategy wraps the module (DDP does, also with one process); on a single device
# the plain method is called, and computes in float32 without a word. So the same script trains in bfloat16 on two devices and in
# float32 on one. `with fabric.autocast():` around the call helps.
# Seen with Python 3.11, torch 2.13.0: "single device: forward bfloat16, loss float32, loss in fabric.autocast() bfloat16",
# "ddp, one process: forward bfloat16, loss bfloat16, ...".
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check "lightning-fabric==2.6.6" "torch==2.13.0" "numpy==2.4.6"
cat >"$place/probe.py" <<'PY'
import sys

import torch
from lightning_fabric import Fabric


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        self.seen = ""

    def forward(self, x):
        y = self.layer(x)
        self.seen = str(y.dtype).removeprefix("torch.")
        return y.sum()

    def loss(self, x):
        y = self.layer(x)
        self.seen = str(y.dtype).removeprefix("torch.")
        return y.sum()


strategy = sys.argv[1]
fabric = Fabric(accelerator="cpu", devices=1, strategy=strategy, precision="bf16-mixed")
fabric.launch()
plain = Model()
model, _ = fabric.setup(plain, torch.optim.SGD(plain.parameters(), 0.1))
model.mark_forward_method("loss")
x = torch.ones(2, 4)
model(x)
forward = plain.seen
model.loss(x)
loss = plain.seen
with fabric.autocast():
    model.loss(x)
name = {"auto": "single device", "ddp": "ddp, one process"}[strategy]
print(f"{name}: forward {forward}, loss {loss}, loss in fabric.autocast() {plain.seen}")
PY
for strategy in auto ddp; do
  "$place/env/bin/python" -W ignore "$place/probe.py" "$strategy" 2>"$place/noise" | tee -a "$place/seen"
done
diff "$place/seen" - <<'SEEN'
single device: forward bfloat16, loss float32, loss in fabric.autocast() bfloat16
ddp, one process: forward bfloat16, loss bfloat16, loss in fabric.autocast() bfloat16
SEEN
