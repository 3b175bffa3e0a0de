"""Trustworthy, one-command benchmarking of latent world models."""

from pathlib import Path as _Path

__version__ = "0.1.0"

_here = _Path(__file__).parent
if not (_here / "envs").is_dir():  # a checkout: envs/ and agents/ lie beside this package
    __path__.append(str(_here.parent))
