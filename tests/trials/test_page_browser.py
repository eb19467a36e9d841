"""The page in a headless browser: no error, no request, no sideways scrolling, in both themes."""

import pytest

from flaxyolo.trials.findings import read_findings
from flaxyolo.trials.page import write_page
from tests.trials.made_study import write_study


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("runs") / "made")
    write_page(read_findings(folder), folder / "report.html")
    return folder / "report.html"


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_it_is_quiet_and_fits(browser, written, theme, width):
    context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": 800})
    shown, said, asked = context.new_page(), [], []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(written.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [written.as_uri()]
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    backs = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert backs == {"light": "rgb(244, 246, 248)", "dark": "rgb(17, 21, 26)"}[theme]
    context.close()


@pytest.mark.slow
def test_a_network_tells_of_itself_when_pointed_at_tapped_or_reached_by_keys(browser, written):
    context = browser.new_context(viewport={"width": 400, "height": 800}, has_touch=True)
    shown = context.new_page()
    shown.goto(written.as_uri())
    readout, points = shown.locator(".readout"), shown.locator(".point")
    assert readout.inner_text().startswith("trial 1: advised")
    points.nth(0).locator(".dot").hover()
    assert readout.inner_text().startswith("trial 0: baseline")
    points.nth(1).locator(".dot").tap()
    assert readout.inner_text().startswith("trial 2: YOLOv8 scaled")
    points.nth(0).focus()
    assert readout.inner_text().startswith("trial 0: baseline")
    context.close()
