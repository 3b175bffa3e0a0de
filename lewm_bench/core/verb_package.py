"""Packages that are verbs of the Python interface as well: ``lewm_bench.run(...)`` beside ``lewm_bench.run.stages``."""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any

INTERFACE = "lewm_bench.api"


class VerbPackage(ModuleType):
    """A package that can be called: what is called is the function of its own name in the Python interface."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _verb(self)(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_verb(self))


def _verb(package: ModuleType) -> Any:
    """The function, looked up when it is needed: importing a package must not import the whole benchmark."""
    return getattr(importlib.import_module(INTERFACE), package.__name__.rpartition(".")[2])


def make_verb(name: str) -> None:
    """Let the package of this name, which is being imported, be called."""
    sys.modules[name].__class__ = VerbPackage
