"""The command `report`: the page of a study, one HTML file that needs no network."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.base.functions import as_function

log = logging.getLogger("flaxyolo.report")


@dataclass(frozen=True)
class Flags:
    """Flags of `report`."""

    study: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STUDY")]
    """Folder of a study, such as runs/digits-8ms."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The page; by default report.html in the study's folder."""
    storage: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Database of the study, where the sweep had one: a URL, or env:NAME of a variable with it."""


def _run(flags: Flags) -> Path:
    """Write the page, and say where."""
    import optuna

    from flaxyolo.trials.findings import read_findings
    from flaxyolo.trials.page import PAGE, write_page

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = flags.out or flags.study / PAGE
    if path.is_dir():
        raise InputError(f"--out: expected a file, got {path}, which is a folder")
    findings = read_findings(flags.study, flags.storage)
    if not path.parent.is_dir():
        raise InputError(f"--out: expected a file in a folder that is there, got {path}")
    write_page(findings, path)
    for line in findings.missing:
        log.info("not on the page: %s", line)
    print(path)
    return path


run_report = as_function(Flags, _run, "report", "the path of the page")


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.report",
        description="The page of a study: one HTML file that needs no network.",
    )
    return cli.run(partial(_run, flags), output=flags.out or flags.study)


if __name__ == "__main__":
    sys.exit(main())
