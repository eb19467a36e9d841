"""The page to drop an image on, in a headless browser."""

import base64
from contextlib import contextmanager

import numpy as np
import pytest

from tests.deploy.learnt import learnt
from tests.deploy.serving import picture, png, running, service_of

pytestmark = pytest.mark.slow
PIXELS = picture(1, scale=5)
"""320 pixels wide, with two objects."""

GIVE = """async ([content, event, name]) => {
  const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name));
  const Kind = event === 'paste' ? ClipboardEvent : DragEvent;
  const more = event === 'paste' ? { clipboardData: data } : { dataTransfer: data };
  document.body.dispatchEvent(new Kind(event, { bubbles: true, cancelable: true, ...more }));
}"""
COLOURS = """(points) => {
  const { width, height } = document.getElementById('canvas');
  const pen = document.getElementById('canvas').getContext('2d');
  const { data } = pen.getImageData(0, 0, width, height);
  return points.map(([x, y]) => {
    const place = 4 * (Math.floor(y * height) * width + Math.floor(x * width));
    return [...data.slice(place, place + 3)];
  });
}"""


@pytest.fixture(scope="module")
def url():
    with running(service_of(learnt(), batch=2)) as url:
        yield url


@contextmanager
def opened(browser, url, width=1000, theme="light"):
    """The page, what the console said, and what was asked for."""
    context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": 800})
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    # Not wait_for_function: it evaluates text in the page, which the page forbids.
    page.locator("#about", has_text="nut").wait_for()
    yield page, said, asked
    context.close()


def give(page, event, content, name="a.png"):
    page.evaluate(GIVE, [base64.b64encode(content).decode(), event, name])


def rows(page):
    """The table, once there is one."""
    page.locator("#result").wait_for(state="visible")
    return [line.split("\t") for line in page.locator("#rows").inner_text().splitlines()]


def expected(least=0.25):
    found = learnt()(PIXELS, min_score=least)
    columns = zip(found.names, found.scores.tolist(), found.boxes.tolist(), strict=True)
    return [
        [name, f"{score:.2f}", *(f"{side:.1f}" for side in box)] for name, score, box in columns
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_a_dropped_image_is_seen_with_its_boxes(browser, url, theme, width):
    with opened(browser, url, width, theme) as (page, said, asked):
        give(page, "drop", png(PIXELS))
        assert rows(page) == expected()
        assert len(expected()) == 2
        assert page.locator("#said").inner_text().startswith("2 objects in 320 ")
        x0, y0, x1, y1 = (learnt()(PIXELS).boxes[0] / 320).tolist()
        points = [[x0, (y0 + y1) / 2], [(x0 + x1) / 2, (y0 + y1) / 2]]
        line, inside = page.evaluate(COLOURS, points)
        assert sorted(inside) == pytest.approx([40, 40, 220], abs=3)
        # The line's colour is another, and none of the grey around the object.
        assert max(line) - min(line) > 50
        assert np.abs(np.subtract(line, inside)).max() > 50
        assert page.evaluate("document.documentElement.scrollWidth") == width
        backs = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert backs == {"light": "rgb(244, 246, 248)", "dark": "rgb(17, 21, 26)"}[theme]
        assert said == []
        paths = [one.removeprefix(url) for one in asked if not one.startswith("data:")]
        assert paths == ["/", "/page.css", "/page.js", "/health", "/predict?min_score=0.05"]


def test_an_image_is_pasted_or_chosen(browser, url, tmp_path):
    (tmp_path / "a.png").write_bytes(png(PIXELS))
    with opened(browser, url) as (page, said, _):
        give(page, "paste", png(PIXELS))
        assert rows(page) == expected()
        page.reload()
        for _ in range(2):  # the same file again
            with page.expect_response("**/predict*"):
                page.locator("#file").set_input_files(tmp_path / "a.png")
        assert rows(page) == expected()
        assert said == []


def test_the_keyboard_reaches_the_chooser_and_the_score(browser, url):
    with opened(browser, url) as (page, said, _):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "file"
        assert (
            page.locator("#drop").evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
        )
        with page.expect_file_chooser():
            page.keyboard.press("Space")
        give(page, "drop", png(PIXELS))
        assert rows(page) == expected()
        page.locator("#least").focus()
        page.keyboard.press("End")
        assert page.locator("#shown-least").inner_text() == "0.95"
        assert rows(page) == expected(0.95)
        page.keyboard.press("Home")
        assert rows(page) == expected(0.05)
        assert said == []


def test_what_is_no_image_is_told_and_the_next_is_seen(browser, url):
    with opened(browser, url) as (page, _, _):
        give(page, "drop", png(PIXELS))
        assert rows(page) == expected()
        give(page, "drop", b"no image", "notes.txt")
        page.locator("#said.wrong").wait_for()
        told = page.locator("#said").inner_text()
        assert told.startswith("notes.txt: expected an image (JPEG, PNG, ")
        assert not page.locator("#result").is_visible()
        give(page, "drop", bytes(20_000_001), "large.png")
        page.get_by_text("The file has 20.0 MB; the most is 20 MB.").wait_for()
        give(page, "drop", png(PIXELS))
        assert rows(page) == expected()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_of_the_api_is_quiet_and_fits(browser, url, theme, width):
    with opened(browser, url, width, theme) as (page, said, asked):
        asked.clear()
        page.get_by_role("link", name="API").click()
        page.get_by_text("POST /predict").wait_for()
        page.wait_for_load_state()  # with its style, which its width depends on
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert said == []
        paths = [one.removeprefix(url) for one in asked if not one.startswith("data:")]
        assert paths == ["/docs", "/page.css"]
