"""Trustworthy, one-command benchmarking of latent world models.

From Python: ``import lewm_bench as lb``, then ``lb.load``, ``lb.run``, ``lb.train`` and ``lb.speed`` (docs/python.md).
"""

from pathlib import Path as _Path

__version__ = "0.1.0"

_here = _Path(__file__).parent
if not (_here / "envs").is_dir():  # a checkout: envs/ and agents/ lie beside this package
    __path__.append(str(_here.parent))

_PACKAGES = ("envs", "run", "train")  # the last two can be called
_INTERFACE = (
    "ActingAgent", "Attempt", "NotRun", "Result", "SpeedResult", "TrainingFailed", "UserError", "check", "load", "speed",
)  # fmt: skip


def __getattr__(name: str) -> object:
    """What the interface has, imported when it is first asked for: torch takes seconds, this package none."""
    from importlib import import_module

    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name in _INTERFACE:
        return getattr(import_module(f"{__name__}.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_INTERFACE, *_PACKAGES})
