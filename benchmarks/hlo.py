"""What an optimised program of XLA launches: loops, kernels and bytes, read from its text."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
    "partition-id", "replica-id",
}  # fmt: skip
"""Operations that launch nothing, as do the ends of asynchronous ones (`-done`)."""
DONE = "-done"
PARTS = {"slice", "dynamic-slice", "gather"}
"""Operations that read a part of their first operand."""
SIZES = {"pred": 1, "token": 0, "bf16": 2}
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
SHAPE = re.compile(
    r"\b(pred|bf16|token|[sufc]\d+|f8\w+)\[([\d,]*)\]"
    r"(?:\{([\d,]*)(?::(?:T\(([\d,]+)\))?[^}]*)?\})?"
)
OPERATION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
KIND = re.compile(r"\s*([\w\-]+)(?=\()")


class Operation(NamedTuple):
    """One line of a program."""

    name: str
    root: bool
    bytes: int
    """Of its results, as they lie in memory."""
    kind: str
    operands: list[str]
    rest: str

    def named(self, attribute: str) -> str | None:
        """The computation that an attribute names."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.rest)
        return found[1] if found else None


class Loop(NamedTuple):
    """A `while`, and how often its body runs; None where that is decided as it runs."""

    body: str
    trips: int | None


class Counts(NamedTuple):
    """Of one run of a program. Of a loop without a known end, one pass and one question count."""

    loops: list[Loop]
    kernels: Counter[str]
    """Launches by kind of operation, those in loops as often as they run."""
    bytes: int
    """Read and written by these kernels, as if nothing was in a cache before."""


def size_of(shape: str) -> int:
    """Bytes of an array, or of a tuple of them; a TPU keeps arrays in whole tiles."""
    return sum(
        SIZES.get(kind, 1 if kind.startswith("f8") else _bits(kind) // 8)
        * math.prod(_sides(*map(_numbers, (sides, order, tile))))
        for kind, sides, order, tile in SHAPE.findall(shape)
    )


def untiled(text: str) -> str:
    """A program as if its arrays took no more room than their numbers."""
    return re.sub(r":T\([\d,]+\)", ":", text)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _sides(sides: list[int], order: list[int], tile: list[int]) -> list[int]:
    """The sides of an array, from that along which neighbours lie, in whole tiles."""
    inner = [sides[place] for place in order] if order else sides[::-1]
    wide = [-(-side // whole) * whole for side, whole in zip(inner, tile[::-1], strict=False)]
    return wide + inner[len(wide) :]


def _bits(kind: str) -> int:
    return max(8, int(re.sub(r"\D", "", kind) or 8))


def computations(text: str) -> tuple[dict[str, list[Operation]], str]:
    """The operations of every computation by its name, and the name of the entry."""
    found: dict[str, list[Operation]] = {}
    entry = current = ""
    for line in text.splitlines():
        header = HEADER.match(line)
        if header:
            current = header[2]
            found[current] = []
            entry = current if header[1] else entry
        elif line.startswith("}"):
            current = ""
        elif current:
            found[current].append(_operation(line))
    if not entry:
        raise ValueError("expected the text of an HLO module, found no ENTRY")
    return found, entry


def _operation(line: str) -> Operation:
    # Long lists are numbered in comments.
    read = OPERATION.match(re.sub(r"/\*.*?\*/", "", line))
    said = read[3] if read else ""
    # A tuple of shapes has blanks between them, one shape has none.
    end = _closed(said) if said.startswith("(") else said.find(" ")
    kind = KIND.match(said, max(end, 0))
    if read is None or kind is None:
        raise ValueError(f"not an operation of HLO as this reader knows it: {line:.200}")
    (root, name), shape = read.groups()[:2], said[:end]
    stop = _closed(said, kind.end())
    operands, rest = said[kind.end() + 1 : stop - 1], said[stop:]
    # In front of an operand's name may stand its shape.
    names = [
        part.split()[-1].lstrip("%") for part in re.split(r",\s*(?![^\[{]*[\]}])", operands) if part
    ]
    return Operation(name, bool(root), size_of(shape), kind[1], names, rest)


def _closed(text: str, start: int = 0) -> int:
    """The place behind the parenthesis that closes the one at `start`; -1 where none does."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place + 1
    return -1


def count(text: str) -> Counts:
    """Loops, kernels and bytes of an optimised program."""
    found, entry = computations(text)
    loops: list[Loop] = []
    kernels: Counter[str] = Counter()
    moved = 0
    for operation, times, where in _launches(found, entry, 1):
        if operation.kind == "while":
            body = operation.named("body")
            assert body is not None, "a loop has a body"
            loops.append(Loop(body, _trips(operation)))
        else:
            kernels[operation.kind] += times
            moved += times * _bytes(operation, where, found)
    return Counts(loops, kernels, moved)


def _launches(
    found: dict[str, list[Operation]], name: str, times: int
) -> Iterator[tuple[Operation, int, dict[str, Operation]]]:
    """Loops and kernels with how often they run, and the operations beside them."""
    where = {operation.name: operation for operation in found[name]}
    for operation in found[name]:
        if operation.kind == "while":
            yield operation, times, where
            trips = _trips(operation)
            inside = [operation.named("body")] + [operation.named("condition")] * (trips is None)
            for part in inside:
                assert part is not None, "a loop has a body and a condition"
                yield from _launches(found, part, times * (1 if trips is None else trips))
        elif operation.kind in ("call", "conditional"):
            # Of a conditional every branch counts: an upper bound.
            for part in re.findall(r"%([\w.\-]+)", operation.rest):
                if part in found:
                    yield from _launches(found, part, times)
        elif operation.kind not in FREE and not operation.kind.endswith(DONE):
            yield operation, times, where


def _trips(loop: Operation) -> int | None:
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    return int(known[1]) if known else None


def _bytes(
    operation: Operation, where: dict[str, Operation], found: dict[str, list[Operation]]
) -> int:
    """Read and written by one kernel; of what it reads in part, that part alone."""
    inputs = [where[name].bytes if name in where else 0 for name in operation.operands]
    body = operation.named("calls") if operation.kind == "fusion" else None
    if body is None:
        return operation.bytes + sum(inputs)
    inner = {one.name: one for one in found[body]}
    (root,) = (one for one in found[body] if one.root)
    written = _written(root, inner)
    parameters = (one for one in found[body] if one.kind == "parameter")
    return written + sum(min(_read(one, found[body]), one.bytes) for one in parameters)


def _written(result: Operation, inner: dict[str, Operation]) -> int:
    """Bytes that a kernel writes of one of its results; what is changed in place is one part."""
    if result.kind in ("tuple", "bitcast"):
        return sum(_written(inner[name], inner) for name in result.operands)
    if result.kind == "dynamic-update-slice":
        return inner[result.operands[1]].bytes
    return result.bytes


def _read(parameter: Operation, body: list[Operation]) -> int:
    """Bytes that a kernel reads of one of its parameters."""
    read = 0
    for user in body:
        if parameter.name not in user.operands:
            continue
        first_alone = (
            user.operands.index(parameter.name) == 0 and parameter.name not in user.operands[1:]
        )
        if user.kind == "bitcast":
            read += _read(user, body)
        elif user.kind in PARTS and first_alone:
            read += user.bytes
        elif not (user.kind == "dynamic-update-slice" and first_alone):
            read += parameter.bytes
    return read
