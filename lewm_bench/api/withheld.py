"""What an agent is not given: it stands in for an array or a dataset, and whoever looks into it is told so."""

from __future__ import annotations

from typing import Any, NoReturn

from lewm_bench.core.errors import UserError


class Withheld:
    """In place of something that most agents never look at.

    A part of it is withheld too, so that code which only passes it on works; everything else is a ``UserError``.
    """

    def __init__(self, message: str) -> None:
        """``message`` says what is missing and how to give it."""
        self._message = message

    def __getitem__(self, index: object) -> Withheld:
        return self

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # asked for by copy, inspect and debuggers, which must go on
            raise AttributeError(name)
        raise UserError(self._message)

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise UserError(self._message)

    def __len__(self) -> NoReturn:
        raise UserError(self._message)

    def __iter__(self) -> NoReturn:
        raise UserError(self._message)
