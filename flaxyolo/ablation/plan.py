"""An ablation's plan: a baseline config, and arms that each change one variable of it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flaxyolo.ablation.paths import changed, variables
from flaxyolo.ablation.results import Arm
from flaxyolo.base.errors import InputError
from flaxyolo.base.files import comment, read_yaml, replace_file
from flaxyolo.config import Config, read_config
from flaxyolo.nn.detector import abstract_weights
from flaxyolo.spec import describe

BASELINE = "baseline"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What an arm may be called: its runs lie in a folder of that name."""
FORM = "expected 'baseline: CONFIG' and 'arms: {NAME: {PATH: VALUE, why: TEXT}}'"


@dataclass(frozen=True)
class AblationPlan:
    """What is compared; the first arm is the baseline, which changes nothing."""

    path: Path
    baseline: Config
    arms: tuple[Arm, ...]

    def configs(self, baseline: Config | None = None) -> dict[str, Config]:
        """Each arm's config, from the plan's baseline or from one made to fit the data.

        InputError where an arm does not fit it, or changes nothing of it.
        """
        base = self.baseline if baseline is None else baseline
        made: dict[str, Config] = {}
        for arm in self.arms:
            where = f"{self.path}: arm {arm.name!r}"
            config = changed(base, arm.changes, where) if arm.changes else base
            twin = next((name for name, other in made.items() if other == config), None)
            if twin is not None:
                raise InputError(f"{where}: is the same as arm {twin!r}")
            try:
                abstract_weights(config.detector)
            except ValueError as error:
                raise InputError(f"{where}: {describe(error)}") from None
            made[arm.name] = config
        return made


def read_plan(path: Path) -> AblationPlan:
    """Read a plan of configs/ablations; InputError in one line names the arm and what is wrong."""
    content = _read(path)
    unknown = set(content) - {"baseline", "arms"}
    if unknown or not isinstance(content.get("baseline"), str):
        got = f"unknown {', '.join(map(str, unknown))}" if unknown else "no path of a baseline"
        raise InputError(f"{path}: {FORM}, got {got}")
    baseline = read_config(path.parent / content["baseline"])
    arms = content.get("arms")
    if not isinstance(arms, dict) or not arms:
        raise InputError(f"{path}: {FORM}, got {'no arms' if not arms else repr(arms)[:60]}")
    given = [_arm(name, fields, baseline, path) for name, fields in arms.items()]
    plan = AblationPlan(path, baseline, (Arm(BASELINE, {}), *given))
    plan.configs()
    return plan


def _arm(name: Any, fields: Any, baseline: Config, path: Path) -> Arm:
    where = f"{path}: arm {name!r}"
    if not isinstance(name, str) or not NAME.fullmatch(name) or name == BASELINE:
        raise InputError(
            f"{where}: expected a name of letters, digits, '-', '_' and '.', other than {BASELINE}"
        )
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise InputError(f"{where}: expected changes such as 'norm: group', got {fields!r:.60}")
    changes = {key: value for key, value in fields.items() if key not in ("joint", "why")}
    joint, why = fields.get("joint", False), fields.get("why", "")
    if not isinstance(joint, bool) or not isinstance(why, str):
        raise InputError(f"{where}: expected 'joint: true' or 'false' and 'why: TEXT'")
    if not changes:
        raise InputError(f"{where}: expected a change such as 'norm: group', got none")
    count = variables(baseline, changed(baseline, changes, where), changes)
    if count > 1 and not joint:
        raise InputError(
            f"{where}: expected one variable, got {count} ({', '.join(changes)}); what changed the "
            "score could not be told; make arms of them, or declare it with 'joint: true'"
        )
    return Arm(name, changes, joint, why)


def write_plan(plan: AblationPlan, baseline: str, note: str) -> None:
    """Write a plan that `read_plan` reads back; `baseline` is its config, beside it."""
    arms = {
        arm.name: {**arm.changes, **({"joint": True} if arm.joint else {}), "why": arm.why}
        for arm in plan.arms[1:]
    }
    content = {"baseline": baseline, "arms": arms}
    text = yaml.safe_dump(content, sort_keys=False, width=100)
    replace_file(plan.path, comment(note) + text)


def _read(path: Path) -> dict[Any, Any]:
    content = read_yaml(path, "plan", _Strict)
    if not isinstance(content, dict):
        raise InputError(f"{path}: {FORM}, got {content!r:.60}")
    return content


class _Strict(yaml.SafeLoader):
    """YAML in which no key may stand twice: the first of two arms of one name would be lost."""


def _mapping(loader: _Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"{key.value!r} stands twice", key.start_mark
            )
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
