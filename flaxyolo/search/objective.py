"""What a sweep maximises: a sum of COCO's numbers, as the user weights them."""

import ast
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from flaxyolo.base.errors import InputError
from flaxyolo.data.sources import Example
from flaxyolo.scoring.average_precision import KEYS, Scores
from flaxyolo.scoring.bootstrap import draw_weights
from flaxyolo.scoring.coco_matches import Matched
from flaxyolo.scoring.resamples import RESAMPLES, resampled

DEFAULT = "map_small + map_medium + map_large"
MAX_LENGTH = 500

AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e5**2)}
"""COCO's sizes, in square pixels; a bound belongs to both sides."""
FULL_SUPPORT = 100
"""Validation boxes from which on a size counts fully; with fewer, in proportion.

The standard error of the AP of a size over images is 0.3 to 0.6 / sqrt(boxes) on three data sets
(benchmarks/objective_noise.py): 0.12 with 10 boxes, 0.04 with 100, which is about as much as the
networks of a budget differ in it. The best weight of a noisy score is its reliability, boxes /
(boxes + 100) then; min(1, boxes / 100) begins alike, and leaves well supported sizes as they are.
"""


@dataclass(frozen=True)
class Objective:
    """An expression of COCO's twelve numbers, such as `map_small + 0.5 * map`.

    It may hold numbers, + - * /, parentheses and the names; `text` is stored in one form, so
    that equal expressions are equal however they were spaced.
    """

    text: str = DEFAULT

    def __post_init__(self):
        object.__setattr__(self, "text", ast.unparse(_parse(self.text)))
        # What numbers alone make of it, such as an overflow.
        if not math.isfinite(self.highest):
            raise InputError(f"objective {self.text!r}: its numbers are too large")

    @cached_property
    def _tree(self) -> ast.expr:
        return _parse(self.text)

    @property
    def highest(self) -> float:
        """Its value where every number is 1."""
        return _evaluate(self._tree, dict.fromkeys(KEYS, 1.0))

    @property
    def names(self) -> tuple[str, ...]:
        """The numbers that it takes, in COCO's order."""
        used = {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)}
        return tuple(key for key in KEYS if key in used)

    def value(self, scores: Scores | Mapping[str, Any]) -> float:
        """Its value; a number that is None, as no object has that size, counts 0.

        InputError where all of its numbers are None.
        """
        found = vars(scores) if isinstance(scores, Scores) else scores
        taken = {name: found[name] for name in self.names}
        if all(value is None for value in taken.values()):
            raise InputError(
                f"nothing to score: the validation images hold no object for {self.text}; "
                "label some"
            )
        return _evaluate(
            self._tree, {name: 0.0 if value is None else value for name, value in taken.items()}
        )

    def standard_error(
        self, matched: Mapping[str, Matched], resamples: int = RESAMPLES
    ) -> float | None:
        """Its standard error over the validation images, by bootstrap.

        None with fewer than two images, or where hardly a resample has anything to score.
        """
        images = matched["all"].objects.shape[1]
        drawn = resampled(matched, self.names, draw_weights(images, resamples))
        rows = np.stack([drawn[name] for name in self.names], 1)
        rows = rows[~np.isnan(rows).all(1)]
        if images < 2 or len(rows) < 2:
            return None
        values = [
            _evaluate(self._tree, dict(zip(self.names, row, strict=True)))
            for row in np.nan_to_num(rows).tolist()
        ]
        return float(np.std(values, ddof=1))


def support(examples: Sequence[Example]) -> dict[str, int]:
    """Boxes of each of COCO's sizes in these images, crowds left out."""
    areas = np.concatenate([np.zeros(0), *(one.areas[~one.crowd] for one in examples)])
    return {
        size: int(((areas >= least) & (areas <= most)).sum())
        for size, (least, most) in AREAS.items()
    }


def supported(boxes: Mapping[str, int]) -> Objective:
    """The default, in which a size of few validation boxes counts in proportion to them."""
    weights = {size: min(1.0, count / FULL_SUPPORT) for size, count in boxes.items() if count}
    terms = [
        f"map_{size}" if weight == 1 else f"{weight:g} * map_{size}"
        for size, weight in weights.items()
    ]
    # Without any box there is nothing to score, which is said when it is tried.
    return Objective(" + ".join(terms) or DEFAULT)


def thin(objective: Objective, boxes: Mapping[str, int]) -> dict[str, int]:
    """Sizes that an objective takes though they have few validation boxes, with their number."""
    taken = {name.rpartition("_")[2] for name in objective.names}
    return {size: count for size, count in boxes.items() if size in taken and count < FULL_SUPPORT}


def in_words(boxes: Mapping[str, int]) -> str:
    """Numbers of boxes by size: `10 small, 1 medium and no large boxes`."""
    *others, last = [f"{count or 'no'} {size}" for size, count in boxes.items()]
    told = f"{', '.join(others)} and {last}" if others else last
    return f"{told} box{'' if list(boxes.values()) == [1] else 'es'}"


def _parse(text: str) -> ast.expr:
    """The checked expression; InputError names the part that is not allowed."""
    text = " ".join(text.split())
    where = f"objective {text:.80}"
    if len(text) > MAX_LENGTH:
        raise InputError(f"{where}...: expected at most {MAX_LENGTH} characters, got {len(text)}")
    try:
        tree = ast.parse(text, mode="eval").body
        names = _check(tree, where)
    except SyntaxError as error:
        at = f" at character {error.offset}" if error.offset else ""
        raise InputError(
            f"{where}: expected an expression such as 'map_small + 0.5*map', got {error.msg}{at}"
        ) from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: {error}") from None
    except OverflowError:
        raise InputError(f"{where}: expected numbers that a float can hold") from None
    except (RecursionError, MemoryError):
        raise InputError(f"{where}: nested too deep") from None
    if not names:
        raise InputError(f"{where}: expected at least one of {', '.join(KEYS)}")
    return tree


def _check(node: ast.expr, where: str) -> set[str]:
    """The names in it; InputError where it holds anything but what an objective may."""
    part = ast.unparse(node)
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            if not math.isfinite(number):
                raise InputError(f"{where}: {part}: expected a finite number")
            return set()
        case ast.Name(id=name):
            if name in KEYS:
                return {name}
            near = difflib.get_close_matches(name, KEYS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError(f"{where}: {name!r} is not one of {', '.join(KEYS)}{hint}")
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _check(operand, where)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult(), right=right):
            return _check(left, where) | _check(right, where)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            if _check(right, where):
                raise InputError(
                    f"{where}: {part}: expected a number after '/', got {ast.unparse(right)}"
                )
            if _evaluate(right, {}) == 0:
                raise InputError(f"{where}: {part}: division by zero")
            return _check(left, where)
    raise InputError(
        f"{where}: {part}: expected only numbers, + - * /, parentheses and {', '.join(KEYS)}"
    )


def _evaluate(node: ast.expr, values: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return float(values[name])
        case ast.UnaryOp(op=op, operand=operand):
            value = _evaluate(operand, values)
            return -value if isinstance(op, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right):
            first, second = _evaluate(left, values), _evaluate(right, values)
            if isinstance(op, ast.Add):
                return first + second
            if isinstance(op, ast.Sub):
                return first - second
            return first * second if isinstance(op, ast.Mult) else first / second
    raise AssertionError(f"{ast.dump(node)} was checked before")
