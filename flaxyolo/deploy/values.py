"""Arrays of a JAX program as ONNX keeps them: any order of axes, broadcast only where it must be.

The networks are written channels last; ONNX convolutions want channels first. So a value knows at
which place each of its axes lies (`order`), and an axis moves only where an operator needs it to:
a network of convolutions, sums and concatenations gets no transposition at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flaxyolo.deploy.graph import Graph

Group = tuple[list[int], list[int]]
"""Axes that are cut or joined together by a reshape: before, after."""

BATCH = "batch"
"""The name of a dimension that is known when the model runs."""


@dataclass(frozen=True)
class Value:
    """An array of the program: a name in the graph, or numbers that are known."""

    shape: tuple[Any, ...]
    """As the program sees it; the batch may be a symbol of JAX."""
    held: tuple[Any, ...]
    """The same axes as they are there: 1 where the value is to be broadcast."""
    order: tuple[int, ...]
    """`order[k]` is the axis of the program that lies at place k."""
    name: str | None = None
    array: np.ndarray | None = None
    """Known numbers, in the program's order."""

    def place(self, axis: int) -> int:
        """Where an axis of the program lies."""
        return self.order.index(axis)


def known(array: Any) -> Value:
    """A value whose numbers are known."""
    array = np.asarray(array)
    return Value(array.shape, array.shape, tuple(range(array.ndim)), array=array)


def is_fixed(dimension: Any) -> bool:
    """Whether a dimension is a number now."""
    return isinstance(dimension, int | np.integer)


@dataclass
class Shaper:
    """Moves, reshapes and broadcasts values in a graph."""

    graph: Graph
    images: str = "images"
    """The input whose first dimension is the batch."""

    def named(self, value: Value, order: Sequence[int] | None = None) -> str:
        """The name of a value in the graph, with its axes in this order (as they lie)."""
        order = value.order if order is None else tuple(order)
        if value.array is not None:
            return self.graph.constant(value.array.transpose(order))
        assert value.name is not None
        if order == value.order:
            return value.name
        places = [value.place(axis) for axis in order]
        sizes = [value.held[axis] for axis in value.order]
        long = [place for place in places if not _is_one(sizes[place])]
        if long == sorted(long):
            # Only axes of one cell move.
            return self._reshape(value.name, [value.held[axis] for axis in order])
        return self.graph.add("Transpose", value.name, perm=places)

    def plain(self, value: Value) -> str:
        """The name of a value as the program has it: its axes in order, nothing to broadcast."""
        return self.named(self.full(value), range(len(value.shape)))

    def full(self, value: Value) -> Value:
        """The value with nothing left to broadcast."""
        if all(same_size(a, b) for a, b in zip(value.held, value.shape, strict=True)):
            return value
        if value.array is not None and all(map(is_fixed, value.shape)):
            array = np.broadcast_to(value.array, value.shape)
            return replace(value, held=value.shape, array=array)
        target = self.dimensions([value.shape[axis] for axis in value.order])
        name = self.graph.add("Expand", self.named(value), target)
        return replace(value, held=value.shape, name=name, array=None)

    def dimensions(self, shape: Sequence[Any]) -> str:
        """The name of a shape as an array."""
        if all(map(is_fixed, shape)):
            return self.graph.constant(np.array(shape, np.int64))
        whole = self.graph.add("Shape", self.images)
        batch = self.graph.add("Gather", whole, self.graph.constant(np.array([0], np.int64)))
        parts = [
            self.graph.constant(np.array([size], np.int64))
            if is_fixed(size)
            else self.graph.add("Mul", batch, self.graph.constant(np.array([_times(size)])))
            for size in shape
        ]
        return self.graph.add("Concat", *parts, axis=0)

    def reshaped(self, value: Value, shape: Sequence[Any]) -> Value:
        """The program's reshape; without moving an axis where none that moved is cut or joined."""
        value, shape = self.full(value), tuple(shape)
        if value.array is not None and all(map(is_fixed, shape)):
            return known(value.array.reshape(shape))
        groups = _groups(value.shape, shape)
        order = None if groups is None else _order(groups, value.order)
        if order is None:
            name = self._reshape(self.plain(value), shape)
            return Value(shape, shape, tuple(range(len(shape))), name)
        name = self._reshape(self.named(value), [shape[axis] for axis in order])
        return Value(shape, shape, order, name)

    def spread(self, value: Value, shape: Sequence[Any], axes: Sequence[int]) -> Value:
        """The value with its axes at these of a larger shape; the others are broadcast."""
        held: list[Any] = [1] * len(shape)
        for axis, size in zip(axes, value.held, strict=True):
            held[axis] = size
        if value.array is not None:
            array = value.array.reshape(held)
            return Value(tuple(shape), tuple(held), tuple(range(len(shape))), array=array)
        others = [axis for axis in range(len(shape)) if axis not in axes]
        order = sorted([*others, *axes])
        old = [axes[axis] for axis in value.order]
        if old != sorted(old):
            order = [*others, *old]
        name = value.name
        if others:
            name = self._reshape(self.named(value), [held[axis] for axis in order])
        return Value(tuple(shape), tuple(held), tuple(order), name)

    def _reshape(self, name: str, shape: Sequence[Any]) -> str:
        """A reshape in the order in which things lie; at most one size is not known yet."""
        sizes = [int(size) if is_fixed(size) else -1 for size in shape]
        return self.graph.add("Reshape", name, self.graph.constant(np.array(sizes, np.int64)))


def _is_one(size: Any) -> bool:
    return is_fixed(size) and size == 1


def same_size(one: Any, other: Any) -> bool:
    """Whether two dimensions are the same; symbols that cannot be compared are not."""
    if is_fixed(one) != is_fixed(other):
        return False
    return bool(one == other)


def _times(size: Any) -> np.int64:
    """How many times the batch a symbolic dimension is."""
    (batch,) = size._get_vars()
    return np.int64(size._evaluate({batch: 1}))


def _groups(
    before: Sequence[Any], after: Sequence[Any]
) -> list[tuple[list[int], list[int]]] | None:
    """Which axes become which in a reshape, cut as finely as can be; None where symbols join."""
    groups: list[Group] = []
    first = 0
    if before and after and same_size(before[0], after[0]):
        groups, first = [([0], [0])], 1
    left, right = list(before[first:]), list(after[first:])
    if not all(map(is_fixed, (*left, *right))):
        return None
    i = j = 0
    while i < len(left) or j < len(right):
        start = i, j
        one = other = 1
        if i < len(left):
            one, i = one * left[i], i + 1
        if j < len(right):
            other, j = other * right[j], j + 1
        while one != other:
            if one < other:
                one, i = one * left[i], i + 1
            else:
                other, j = other * right[j], j + 1
        groups.append(
            ([first + k for k in range(start[0], i)], [first + k for k in range(start[1], j)])
        )
    return groups


def _order(groups: list[Group], order: Sequence[int]) -> tuple[int, ...] | None:
    """The order after a reshape by groups; None where one is not together, or turned, now."""
    by_first = {before[0]: (before, after) for before, after in groups if before}
    found: list[int] = [axis for before, after in groups if not before for axis in after]
    place = 0
    while place < len(order):
        before, after = by_first.get(order[place], ([], []))
        if not before or list(order[place : place + len(before)]) != before:
            return None
        found += after
        place += len(before)
    return tuple(found)
