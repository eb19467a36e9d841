"""What a training step's time goes to: a trace of a few steps, and its dearest operations.

The trace is what xprof and Perfetto open. The text is read from it and from the compiled program,
which knows the part of the network that an operation came from (`jax.named_scope`).
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax

from flaxyolo.base.errors import InputError
from flaxyolo.base.files import replace_file

log = logging.getLogger(__name__)

SKIPPED = 3
"""Steps before the trace: the first loads and allocates."""
STEPS = 5
SHOWN = 10
TEXT = "operations.txt"
PARTS = "batch|backbone|neck|head|loss|teacher|optimizer|average"
INSIDE = r"stem|stage\d+|downsample|block|attention|context|box|cls|assign"
UNNAMED = "no part is named"
BACKWARD = ", backward"
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
OP_NAME = re.compile(r'op_name="([^"]*)"')
NEAR = 4
"""So many operands away the part of an operation is looked for that has no name of its own."""


class Piece(NamedTuple):
    """An operation of a compiled program."""

    what: str
    """Its kind, and what it gives."""
    module: str
    """The part of the network; `UNNAMED` where the program does not say."""
    guessed: bool = False
    """Whether only its operands are known to be of that part."""


class Event(NamedTuple):
    """An operation that ran, on one line of a trace."""

    operation: str
    start: float
    """Nanoseconds, as the others."""
    length: float
    """On its line; what runs within that time there belongs to it."""
    elapsed: float
    """Until it was done, on whatever threads."""


@dataclass(frozen=True)
class Operation:
    """What all calls of an operation took."""

    name: str
    milliseconds: float
    """Without the operations that ran within it."""
    calls: int


class Profile:
    """Traces a few steps of the program that it is laid over."""

    def __init__(self, folder: Path):
        self.folder, self.steps = folder, 0
        self.program, self.name, self.tracing = "", "", False
        self._given: Any = None

    def over(self, step: Any) -> Callable[..., Any]:
        """The same compiled step, which is traced when it has run a few times."""
        self.program = step.as_text()
        named = re.match(r"HloModule (\w+)", self.program)
        self.name = named.group(1) if named else ""

        def traced(*arguments: Any) -> Any:
            if self.steps == SKIPPED:
                self._begin()
            self.steps += 1
            if not self.tracing:
                given = step(*arguments)
                if self.steps == SKIPPED:
                    self._given = given
                return given
            with jax.profiler.StepTraceAnnotation("train", step_num=self.steps):
                given = step(*arguments)
            self._given = given
            if self.steps == SKIPPED + STEPS:
                self.end()
            return given

        return traced

    def _begin(self) -> None:
        # A step that still runs would be traced as well, and counted as one of the others.
        jax.block_until_ready(self._given)
        self._given = None
        options = jax.profiler.ProfileOptions()
        # Every call in Python would be an event: a larger trace, of a slower run.
        options.python_tracer_level = 0
        jax.profiler.start_trace(self.folder, profiler_options=options)
        self.tracing = True

    def end(self) -> None:
        """Write what was traced, and tell it; once."""
        if not self.tracing:
            return
        self.tracing = False
        # What a step has only begun would not be in the trace.
        jax.block_until_ready(self._given)
        self._given = None
        jax.profiler.stop_trace()
        newest = max(self.folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
        found = operations(events(newest, self.name))
        if not found:
            log.warning("profile: the trace in %s names no operation of %s, so %s is not written; "
                        "xprof may show more", newest.parent, self.name, TEXT)  # fmt: skip
            return
        text = described(found, pieces(self.program), self.steps - SKIPPED)
        replace_file(self.folder / TEXT, text)
        print(text, end="")
        print(f"profile: {self.folder / TEXT}; the trace: xprof --logdir {self.folder}, or "
              f"ui.perfetto.dev with {newest.parent}/*.trace.json.gz")  # fmt: skip


@contextmanager
def profiling(folder: Path | None) -> Iterator[Profile | None]:
    """A profile into a folder; none without one.

    Programs that were kept without the names of their parts are compiled anew.
    """
    if folder is None:
        yield None
        return
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for the profile, got a file; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    key = "jax_compilation_cache_include_metadata_in_key"
    before = getattr(jax.config, key)
    jax.config.update(key, True)
    profile = Profile(folder)
    try:
        yield profile
    finally:
        jax.config.update(key, before)
        profile.end()
    if profile.steps <= SKIPPED:
        log.warning("profile: nothing was traced: that begins after %d steps, and this command "
                    "took %d", SKIPPED, profile.steps)  # fmt: skip


def events(path: Path, program: str) -> Iterator[list[Event]]:
    """The operations of a program that ran, for each line of a trace: a thread or a stream.

    Where a device tells its own, those that the host began are left out.
    """
    data = jax.profiler.ProfileData.from_file(str(path))
    lines = {True: [], False: []}
    for plane in data.planes:
        for line in plane.lines:
            found = _line(line.events, program)
            if found:
                lines[plane.name.startswith("/device:")].append(found)
    yield from lines[True] or lines[False]


def _line(marks: Iterable[Any], program: str) -> list[Event]:
    begun, ends = [], {}
    for mark in marks:
        stats = dict(mark.stats)
        if stats.get("hlo_module") == program and "hlo_op" in stats:
            begun.append((str(stats["hlo_op"]), mark.start_ns, mark.duration_ns, stats.get("_p")))
        elif mark.name.startswith("end:"):
            # What goes on on other threads is over when the mark is met that names it.
            ends[stats.get("_c")] = mark.start_ns + mark.duration_ns
    return [
        Event(name, start, length, max(length, ends.get(flow, start) - start))
        for name, start, length, flow in begun
    ]


def operations(lines: Iterable[list[Event]]) -> list[Operation]:
    """All calls of each operation together, the dearest first.

    A loop has only the time that its operations leave.
    """
    took: dict[str, list[float]] = {}
    for line in lines:
        around: list[Event] = []
        # Of two that begin together the longer one is around the other.
        for event in sorted(line, key=lambda each: (each.start, -each.length)):
            while around and around[-1].start + around[-1].length <= event.start:
                around.pop()
            if around:
                took[around[-1].operation][0] -= event.length
            around.append(event)
            row = took.setdefault(event.operation, [0.0, 0])
            row[0] += event.elapsed
            row[1] += 1
    found = [Operation(name, time / 1e6, int(calls)) for name, (time, calls) in took.items()]
    return sorted(found, key=lambda each: (-each.milliseconds, each.name))


def pieces(program: str) -> dict[str, Piece]:
    """The operations of a compiled program, given as text.

    What XLA has made without a name is taken to be of the part of its operands.
    """
    kinds: dict[str, str] = {}
    modules: dict[str, str | None] = {}
    operands: dict[str, list[str]] = {}
    for line in program.splitlines():
        found = INSTRUCTION.match(line)
        if found:
            name, shape, kind, rest = found.groups()
            told = OP_NAME.search(rest)
            given = "several arrays" if shape.startswith("(") else shape.partition("{")[0]
            kinds[name] = f"{kind} {given}"
            modules[name] = None if told is None else module(told.group(1))
            operands[name] = re.findall(r"%([\w.\-]+)", rest.partition(")")[0])
    return {
        name: Piece(kind, own)
        if (own := modules[name])
        else Piece(kind, _guessed(name, modules, operands), True)
        for name, kind in kinds.items()
    }


def _guessed(
    name: str, modules: Mapping[str, str | None], operands: Mapping[str, list[str]]
) -> str:
    """The part that the nearest operand of the backward pass is of, or else the nearest of any.

    A kernel's gradient is made of what the layer was given, which may be of the layer before, and
    of the gradient of what it gave, which is its own.
    """
    asked, met = operands.get(name, []), []
    for _ in range(NEAR):
        met += [found for each in asked if (found := modules.get(each))]
        asked = [operand for each in asked for operand in operands.get(each, [])]
    return next((each for each in met if each.endswith(BACKWARD)), next(iter(met), UNNAMED))


def module(op_name: str) -> str | None:
    """`backbone.stage1.block, backward` of what JAX calls an operation; None where it has no part.

    In `jit(train_step)/transpose(jvp(backbone))/stage1/block/conv_general_dilated` the last word
    is the operation, and the others are scopes and JAX's own transformations.
    """
    words = re.findall(r"\w+", op_name.rpartition("/")[0])
    start = next((at for at, word in enumerate(words) if re.fullmatch(PARTS, word)), None)
    if start is None:
        return None
    inside = [word for word in words[start + 1 :] if re.fullmatch(INSIDE, word)]
    return ".".join([words[start], *inside]) + (BACKWARD if "transpose(" in op_name else "")


def described(found: list[Operation], known: Mapping[str, Piece], steps: int) -> str:
    """The dearest operations and the parts of the network, as text."""
    whole = sum(each.milliseconds for each in found)
    none = Piece("", UNNAMED)
    lines = [
        f"{whole / steps:.4g} ms of operations a step, over {steps} steps; the dearest of "
        f"{len(found)} operations:",
        f"{'ms a step':>10} {'share':>6} {'calls':>6}  operation",
    ]
    for each in found[:SHOWN]:
        piece = known.get(each.name, none)
        lines.append(
            f"{each.milliseconds / steps:>10.4g} {each.milliseconds / whole:>6.1%} "
            f"{each.calls:>6}  {each.name}: {piece.what}, {piece.module}"
            + (" (by its operands)" if piece.guessed and piece.module != UNNAMED else "")
        )
    parts: dict[str, float] = {}
    for each in found:
        part = re.sub(r"\..*?(?=,|$)", "", known.get(each.name, none).module)
        parts[part] = parts.get(part, 0.0) + each.milliseconds
    lines.append("by part:")
    for part, time in sorted(parts.items(), key=lambda row: -row[1]):
        lines.append(f"{time / steps:>10.4g} {time / whole:>6.1%} {'':>6}  {part}")
    return "\n".join(lines) + "\n"
