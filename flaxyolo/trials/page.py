"""The page of a study: one HTML file that needs no network, for whoever asks what came of it."""

import logging
from pathlib import Path

import optuna

from flaxyolo.base import cli
from flaxyolo.base.files import replace_file
from flaxyolo.base.markup import Markup, element, joined
from flaxyolo.trials.findings import Findings, gathered
from flaxyolo.trials.page_head import answer, question, sure, tiles
from flaxyolo.trials.page_parts import PARTS, missing
from flaxyolo.trials.page_style import SCRIPT, STYLE

log = logging.getLogger(__name__)

PAGE = "report.html"
"""In a study's folder."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What a browser may load for it: nothing."""
ICON = "data:,"
"""Else a browser asks the server for one."""


def page(findings: Findings) -> str:
    """The page as text."""
    found = [(key, title, make(findings)) for key, title, make in PARTS]
    parts = [(key, title, inside) for key, title, inside in found if inside]
    links = element("nav", [element("a", title, href=f"#{key}") for key, title, _ in parts])
    told = sure(findings)
    head = element(
        "header",
        element("p", f"flaxyolo · study {findings.name}", class_="eyebrow"),
        element("h1", question(findings)),
        element("p", answer(findings), class_="answer"),
        element("p", told, class_="sure") if told else None,
        tiles(findings),
        links,
    )
    sections = [element("section", element("h2", title), inside, id=key)
                for key, title, inside in parts]  # fmt: skip
    body = element("body", element("main", head, sections, missing(findings)),
                   element("script", Markup(SCRIPT)))  # fmt: skip
    return f"<!DOCTYPE html>\n{element('html', _head(findings), body, lang='en')}\n"


def write_page(findings: Findings, path: Path) -> None:
    """Write the page whole or not at all."""
    # A lone surrogate of a name is no letter of UTF-8.
    replace_file(path, page(findings).encode(errors="replace"))


def write_at_end(runs: optuna.Study, seen: optuna.Study, folder: Path) -> Path | None:
    """Write the page of a sweep that ends; None where that fails, which a line tells.

    The results are all there without it.
    """
    path = folder / PAGE
    try:
        write_page(gathered(folder, runs, seen), path)
    except Exception as error:
        again = cli.command_line("report", folder)
        why = str(error) or type(error).__name__
        log.warning("%s could not be written (%s); all else is there, and %s tries again",
                    path, why.splitlines()[0], again)  # fmt: skip
        return None
    return path


def _head(findings: Findings) -> Markup:
    metas = joined(
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href=ICON),
    )
    return element("head", metas, element("title", f"{findings.name}: flaxyolo"),
                   element("style", Markup(STYLE)))  # fmt: skip
