"""A pretended MPS: tensors that say they are on ``mps``, and a refusal of whatever that device lacks.

They live in ordinary memory. A storage is "on the device" if it was put there (``.to("mps")``, ``device="mps"``) or
computed from one that is; only ``.cpu()`` and ``.to("cpu")`` lead back. Operations are refused by torch's own list of
kernels, and so are float64 on the device, a mixture of both memories, and numpy's view of the device.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

MPS, CPU = torch.device("mps"), torch.device("cpu")
DTYPES = (torch.float64, torch.complex128)


class LackingError(Exception):
    """What MPS cannot do."""


@cache
def _table() -> dict[str, tuple[str | None, frozenset[str]]]:
    """Name of an operation to the one that implements it, if another, and the devices that have a kernel of its own."""
    (folder,) = importlib.util.find_spec("torchgen").submodule_search_locations
    text = (Path(folder) / "packaged/ATen/native/native_functions.yaml").read_text()
    found = {}
    for entry in yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        keys = {key.strip() for keys in entry.get("dispatch", {}) for key in keys.split(",")}
        found["aten::" + entry["func"].partition("(")[0]] = entry.get("structured_delegate"), frozenset(keys)
    return found


def mps_has(name: str) -> bool:
    """Whether this torch has a kernel of ``name`` for MPS, or one for every device."""
    if not name.startswith("aten::"):
        return False
    delegate, keys = _table().get(name, (None, frozenset()))
    if delegate is not None:
        return mps_has(f"aten::{delegate}")
    return not keys or any("MPS" in key or key.startswith("Composite") for key in keys)


class _Memory:
    """Which storages are on the device. Weak references keep an address from being used again, not the numbers."""

    def __init__(self) -> None:
        self._storages: dict[int, StorageWeakRef] = {}

    def add(self, tensor: Tensor) -> None:
        reference = StorageWeakRef(tensor.untyped_storage())
        self._storages[reference.cdata] = reference

    def has(self, tensor: Tensor) -> bool:
        with _disable_current_modes():
            return tensor.untyped_storage()._cdata in self._storages


class _Move(torch.autograd.Function):
    """A copy in the other memory; its gradient goes the way back."""

    @staticmethod
    def forward(ctx, x: Tensor, memory: _Memory, to_device: bool) -> Tensor:
        ctx.memory, ctx.to_device = memory, to_device
        with _disable_current_modes():
            copy = x.detach().clone()
        if to_device:
            memory.add(copy)
        return copy

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Move.apply(gradient, ctx.memory, not ctx.to_device), None, None


class _Kernels(TorchDispatchMode):
    """What is computed from the device's numbers stays there, if the device can compute it."""

    def __init__(self, memory: _Memory) -> None:
        super().__init__()
        self.memory, self.calls = memory, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        there = [self.memory.has(t) for t in given]
        out = func(*args, **kwargs)
        if any(there):
            self.calls += 1
            self._check(func, given, there, kwargs)
            self._keep(func, given, out)
        return out

    def _check(self, func, given: list[Tensor], there: list[bool], kwargs: dict[str, Any]) -> None:
        name = func._schema.name + (f".{func._overloadname}" if func._overloadname != "default" else "")
        if func._schema.name == "aten::copy_":  # what may read one memory and write the other
            if there[1] and given[0].dtype in DTYPES:
                raise LackingError("a copy of the device's numbers into float64")
            return
        if not mps_has(name):
            raise LackingError(f"{name} has no kernel for MPS")
        if kwargs.get("generator") is not None:
            raise LackingError(f"{name} draws on the device from the CPU's generator")
        beside = [tuple(t.shape) for t, on in zip(given, there, strict=True) if t.dim() and not on]
        if beside and not func._schema.name.startswith("aten::index"):
            raise LackingError(f"{name} of tensors in both memories; on the CPU: {beside}")

    def _keep(self, func, given: list[Tensor], out: Any) -> None:
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and not (func._schema.name == "aten::copy_" and tensor is given[0]):
                if tensor.dtype in DTYPES:
                    raise LackingError(f"{func} makes {tensor.dtype}")
                self.memory.add(tensor)


class _Places(TorchFunctionMode):
    """``device``, ``.to``, ``.cpu`` and ``device=`` as on a machine that has the device."""

    def __init__(self, memory: _Memory) -> None:
        super().__init__()
        self.memory = memory

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return MPS if self.memory.has(args[0]) else CPU
        if func in (Tensor.numpy, Tensor.__array__) and self.memory.has(args[0]):
            raise LackingError("numpy cannot read the device; .cpu() comes first")
        if func is Tensor.cpu:
            return self._placed(args[0], CPU, None)
        if func is Tensor.to:
            return self._to(func, args, kwargs)
        if func is F.scaled_dot_product_attention and kwargs.pop("is_causal", False):
            # torch makes the mask below Python, where the pretended device is not known.
            mask = torch.ones(args[0].shape[-2], args[1].shape[-2], dtype=torch.bool).tril()
            kwargs["attn_mask"] = self._placed(mask, MPS, None) if self.memory.has(args[0]) else mask
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "mps":
            if kwargs.pop("device") and kwargs.get("generator") is not None:
                raise LackingError(f"{func} draws on the device from the CPU's generator")
            return self._placed(func(*args, **kwargs), MPS, None)
        return func(*args, **kwargs)

    def _to(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        x, *rest = args
        if rest and isinstance(rest[0], Tensor):
            return self._placed(x, MPS if self.memory.has(rest[0]) else CPU, rest[0].dtype)
        kwargs.pop("copy", None)
        device, dtype, *_ = torch._C._nn._parse_to(*rest, **kwargs)
        return func(x, dtype) if device is None else self._placed(x, device, dtype)

    def _placed(self, x: Tensor, device: torch.device, dtype: torch.dtype | None) -> Tensor:
        dtype, to_device = dtype or x.dtype, device.type == "mps"
        if dtype in DTYPES and (to_device or self.memory.has(x)):
            raise LackingError(f"{dtype} to or from the device; on the CPU it is made and unmade")
        if to_device == self.memory.has(x):
            return x.to(dtype)
        if to_device:
            return _Move.apply(x.to(dtype), self.memory, True)
        return _Move.apply(x, self.memory, False).to(dtype)


@contextmanager
def pretended() -> Iterator[_Kernels]:
    """A machine with MPS; counts the operations on it."""
    memory = _Memory()
    with sdpa_kernel(SDPBackend.MATH), _Places(memory), _Kernels(memory) as kernels:
        yield kernels
