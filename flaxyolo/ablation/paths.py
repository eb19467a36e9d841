"""A config's fields by their paths: changing some, and how two configs differ.

`backbone.stages.2.attention` and `norm` are fields of the detector, `learning_rate` and
`augmentation.mosaic` of the training; a `*` stands for every stage.
"""

import copy
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flaxyolo.base.errors import InputError
from flaxyolo.config import Config
from flaxyolo.nn.tables import entry
from flaxyolo.search.space import PLANS
from flaxyolo.spec import describe, detector_from_dict, stem_stride, to_dict

FIXED = {
    "num_classes": "comes from the data",
    "seed": "comes from the runs' seeds (--seeds)",
}
"""Fields that no arm may change, with the reason."""


def changed(config: Config, changes: Mapping[str, Any], where: str) -> Config:
    """The config with these values at these paths; InputError names what does not fit.

    One that leaves everything as it is, is refused too.
    """
    data = to_dict(config)
    for path, value in changes.items():
        before = copy.deepcopy(data)
        if path in SHORTHANDS:
            SHORTHANDS[path](data, value, f"{where}: {path}")
        else:
            for holder, key in targets(data, path, where):
                holder[key] = copy.deepcopy(value)
        if data == before:
            raise InputError(f"{where}: {path} is {value!r} in the baseline already")
    try:
        made = TypeAdapter(Config).validate_python(data)
    except ValidationError as error:
        raise InputError(f"{where}: {describe(error)}{_nearest_choice(error)}") from None
    if made == config:
        raise InputError(f"{where}: changes nothing of the baseline")
    return made


def variables(config: Config, made: Config, changes: Mapping[str, Any]) -> int:
    """How many variables of a config these paths have changed.

    A field is one, also in every stage at once, and so is a shorthand; a group of fields has as
    many as differ in it.
    """
    (path, *more) = changes
    if more:
        return len(changes)
    if path in SHORTHANDS or all(
        _is_field(holder[key]) for holder, key in targets(to_dict(config), path, path)
    ):
        return 1
    return len({re.sub(r"\.\d+\b", ".*", field) for field in differences(config, made)})


def differences(config: Config, other: Config) -> dict[str, Any]:
    """The paths at which another config differs, with its values; stages whole if their number
    does."""
    before, after = to_dict(config), to_dict(other)
    return {
        _short(path): value
        for part in ("detector", "training")
        for path, value in _differing(before[part], after[part], f"{part}.").items()
    }


def fields(config: Config) -> dict[str, Any]:
    """Every field of a config by its path."""
    return {_short(path): value for path, value in _leaves(to_dict(config))}


def targets(data: dict[str, Any], path: str, where: str) -> list[tuple[Any, Any]]:
    """The places that a path names, each as what holds it and its key there."""
    first, *rest = path.split(".")
    if first not in data:
        part = next((part for part in data if first in data[part]), None)
        rest, first = [first, *rest], part or ""
    if not rest or first not in data:
        raise InputError(f"{where}: {_unknown(data, path)}")
    if (name := ".".join(rest)) in FIXED:
        raise InputError(f"{where}: {path} cannot be an arm's: it {FIXED[name]}")
    found: list[tuple[Any, Any]] = [(data, first)]
    for key in rest:
        following = []
        for holder, place in found:
            inside = holder[place]
            if isinstance(inside, list) and key == "*":
                following += [(inside, number) for number in range(len(inside))]
            elif isinstance(inside, list) and key.isdecimal() and int(key) < len(inside):
                following.append((inside, int(key)))
            elif isinstance(inside, dict) and key in inside:
                following.append((inside, key))
            else:
                raise InputError(f"{where}: {_unknown(data, path)}")
        found = following
    return found


def _differing(before: Any, after: Any, at: str = "") -> dict[str, Any]:
    """Paths below two values at which they differ, with the second's."""
    pairs: list[tuple[Any, Any, Any]] = []
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        pairs = [(key, before.get(key), after.get(key)) for key in keys]
    elif _is_list_of_groups(before) and _is_list_of_groups(after) and len(before) == len(after):
        pairs = [(i, *both) for i, both in enumerate(zip(before, after, strict=True))]
    else:
        return {} if before == after else {at.removesuffix("."): after}
    found: dict[str, Any] = {}
    for key, old, new in pairs:
        found |= _differing(old, new, f"{at}{key}.")
    return found


def _leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{at}{key}.")
    elif _is_list_of_groups(value):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{at}{number}.")
    else:
        yield at.removesuffix("."), value


def _is_field(value: Any) -> bool:
    return not isinstance(value, dict) and not _is_list_of_groups(value)


def _is_list_of_groups(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(inner, dict) for inner in value)


def _short(path: str) -> str:
    return path.removeprefix("detector.").removeprefix("training.")


def _unknown(data: dict[str, Any], path: str) -> str:
    """That there is no such field, with the nearest there is."""
    known = [_short(field) for field, _ in _leaves(data)]
    if "*" in path:
        known = sorted({re.sub(r"\.\d+\b", ".*", field) for field in known})
    near = difflib.get_close_matches(_short(path), [*known, *SHORTHANDS], 1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    stages = len(data["detector"]["backbone"]["stages"])
    number = re.match(r"(?:detector\.)?backbone\.stages\.(\d+)\b", path)
    if number and int(number[1]) >= stages:
        hint = f"; the baseline's stages are 0 to {stages - 1}"
    return (
        f"expected a field of the detector or of its training, such as "
        f"backbone.stages.2.attention or learning_rate, got {path!r}{hint}"
    )


def _nearest_choice(error: ValidationError) -> str:
    for each in error.errors():
        choices = re.findall(r"'([^']*)'", str(each.get("ctx", {}).get("expected", "")))
        near = difflib.get_close_matches(str(each.get("input")), choices, 1)
        if near:
            return f"; did you mean {near[0]!r}?"
    return ""


def _stride_plan(data: dict[str, Any], value: Any, where: str) -> None:
    """Where the network steps down and on which levels it detects, as the search names it.

    The head's widths stay, where they would follow the finest level.
    """
    before = detector_from_dict(data["detector"], where)
    try:
        plan = entry(PLANS, str(value), "a stride plan")
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    backbone = data["detector"]["backbone"]
    stages = backbone["stages"]
    if len(plan.strides) > len(stages):
        raise InputError(
            f"{where}: {value} needs {len(plan.strides)} stages, the baseline has {len(stages)}"
        )
    backbone["stages"] = stages[: len(plan.strides)]
    for stage, stride in zip(backbone["stages"], plan.strides, strict=True):
        stage["stride"] = stride
    # Another stem of the same stride is no part of the plan.
    if stem_stride(backbone["stem"]) != stem_stride(plan.stem):
        backbone["stem"] = plan.stem
    data["detector"]["neck"]["levels"] = list(plan.levels)
    after = detector_from_dict(data["detector"], where)
    if after.box_width != before.box_width:
        data["detector"]["head"]["box_width"] = before.box_width
    if after.class_width != before.class_width:
        data["detector"]["head"]["class_width"] = before.class_width


def _resolution(data: dict[str, Any], value: Any, where: str) -> None:
    """The input size as a share of the baseline's, to the next whole number of cells."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 100:
        raise InputError(f"{where}: expected a share of the baseline's size, such as 0.75, "
                         f"got {value!r}")  # fmt: skip
    stride = detector_from_dict(data["detector"], where).backbone.strides[-1]
    cells = max(1, round(value * data["detector"]["image_size"] / stride))
    data["detector"]["image_size"] = cells * stride


def told(changes: Mapping[str, Any]) -> str:
    """Changes in words, such as `norm: group, backbone.drop_path: 0.1`."""
    return ", ".join(f"{path}: {_brief(value)}" for path, value in changes.items())


def _brief(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str) and not _is_field(value):
        return f"{len(value)} others"
    return str(value)


SHORTHANDS: dict[str, Callable[[dict[str, Any], Any, str], None]] = {
    "stride_plan": _stride_plan,
    "resolution": _resolution,
}
"""Single variables that several fields, or a baseline's own value, decide."""
