"""A module of this package, run in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from flaxyolo.base.errors import InputError

LAST_LINES = 3
"""Lines of a failed process that are told."""


def run_module(
    module: str,
    *arguments: str,
    what: str,
    given: str = "",
    environment: Mapping[str, str] | None = None,
    timeout: float,
) -> str:
    """What `python -m module` prints, with `given` as its input.

    Where it fails or takes more than `timeout` seconds, InputError says `what` failed, with the
    last lines of its log.
    """
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            input=given,
            env=variables | dict(environment or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{what} took more than {timeout:g} s in a process of its own") from None
    if ended.returncode == 0:
        return ended.stdout
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    said = lines[-1:] if lines and lines[-1].startswith("error: ") else lines[-LAST_LINES:]
    told = " | ".join(said).removeprefix("error: ") or "it said nothing"
    raise InputError(f"{what} failed (exit code {ended.returncode}): {told:.600}")
