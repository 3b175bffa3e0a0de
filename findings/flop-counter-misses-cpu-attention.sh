#!/usr/bin/env bash
# torch 2.13.0: on a CPU FlopCounterMode counts no attention, no LSTM and no encoder layer that is evaluated, and says nothing.
#
# `scaled_dot_product_attention` is counted for CUDA's kernels and for the unfused one, not for the fused kernel that a CPU takes by
# itself; LSTM is not (oneDNN's layer), GRU of the same sizes is. nn.TransformerEncoderLayer is counted whole where it trains with dropout
# (unfused), as 0 where it is evaluated without gradients (one fused operation), and without its attention where that fast path is off.
# So two models that are compared "at equal FLOPs" on a laptop may differ by all of their attention. What helps:
# torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around the count, or formulas of one's own in `custom_mapping`.
# Seen with Python 3.11 on x86: the lines at the end.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat >"$place/probe.py" <<'PY'
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count(call):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


q = torch.randn(2, 4, 128, 32)
print("attention", count(lambda: F.scaled_dot_product_attention(q, q, q)), "of", 2 * 2 * 2 * 4 * 128 * 128 * 32)
with sdpa_kernel(SDPBackend.MATH):
    print("attention, unfused", count(lambda: F.scaled_dot_product_attention(q, q, q)))
steps = torch.randn(10, 8, 64)
for kind, gates in ((nn.LSTM, 4), (nn.GRU, 3)):
    layer = kind(64, 64)
    print(kind.__name__, count(lambda layer=layer: layer(steps)), "of", 2 * 10 * 8 * gates * 64 * (64 + 64))
layer, tokens = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True), torch.randn(2, 16, 64)
whole = 2 * 2 * 16 * (4 * 64 * 64 + 2 * 64 * 256) + 2 * 2 * 2 * 16 * 16 * 64
print("encoder layer, training", count(lambda: layer.train()(tokens)), "evaluated", count(lambda: layer.eval()(tokens)), "of", whole)
torch.backends.mha.set_fastpath_enabled(False)
print("encoder layer, evaluated without the fast path", count(lambda: layer.eval()(tokens)))
PY
"$place/env/bin/python" -W ignore "$place/probe.py" 2>"$place/noise" | tee "$place/seen"
diff "$place/seen" - <<'SEEN'
attention 0 of 16777216
attention, unfused 16777216
LSTM 0 of 5242880
GRU 3932160 of 3932160
encoder layer, training 3276800 evaluated 0 of 3276800
encoder layer, evaluated without the fast path 3145728
SEEN
