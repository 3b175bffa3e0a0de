"""Rows of one kind, kept as columns: a twentieth of the memory of as many objects, which are made when asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar, overload

from pydantic import BaseModel

R = TypeVar("R", bound=BaseModel)


class Columns(Sequence[R], Generic[R]):
    """A sequence of rows (N,) of the model ``kind``, whose fields are all of Python's plain types."""

    def __init__(self, kind: type[R], rows: Iterable[R] = ()) -> None:
        kept = tuple(rows)
        self._kind, self._length = kind, len(kept)
        self._columns = {name: _packed([getattr(row, name) for row in kept]) for name in kind.model_fields}

    def column(self, name: str) -> Sequence[Any]:
        """(N,) values of a field."""
        return self._columns[name]

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[R, ...]: ...
    def __getitem__(self, index: int | slice) -> R | tuple[R, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(self._length)))
        if not -self._length <= index < self._length:
            raise IndexError(f"row {index} of {self._length}")
        return self._kind.model_construct(**{name: column[index] for name, column in self._columns.items()})

    def __add__(self, other: Sequence[R]) -> tuple[R, ...]:
        return (*self, *other)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Columns, tuple, list)) and tuple(self) == tuple(other)

    __hash__ = None  # equal to lists, which have none

    def __repr__(self) -> str:
        return f"<{self._length} {self._kind.__name__}>"


class _Same(Sequence[Any]):
    """One value, as often as there are rows."""

    def __init__(self, value: Any, length: int) -> None:
        self._value, self._length = value, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        if not -self._length <= index < self._length:
            raise IndexError(index)
        return self._value

    def __iter__(self):
        return iter([self._value] * self._length)


def _packed(values: list[Any]) -> Sequence[Any]:
    """The same values, to the bit and to the type, in as little memory as is simple."""
    types = {type(value) for value in values}
    if types == {float}:
        return array("d", values)
    if len(types) == 1 and len(set(values)) == 1:
        return _Same(values[0], len(values))
    if types == {int}:
        try:
            return array("q", values)
        except OverflowError:  # a number of more than 64 bits
            return values
    pool: dict[tuple[type, Any], Any] = {}
    return [pool.setdefault((type(value), value), value) for value in values]
