"""The page of a service in a real browser."""

from __future__ import annotations

import pytest

from tests.browser import browser, find_browser
from tests.unit.service.crop_store import MODEL, crops_in_a_store
from tests.unit.service.served import KEY, served

for needed in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(needed)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium (Debian's package chromium)"),
]
HITS = "document.querySelectorAll('#hits li')"
NAMES = "[...document.querySelectorAll('#hits .name')].map((each) => each.textContent)"
# Controls that lie on another one, and what holds more than it shows.
CUT_OR_CROSSING = """(() => {
  const all = [...document.querySelectorAll("label, form > button, #ask, li, h1, h2, p")]
    .filter((each) => each.offsetParent).map((each) => [each, each.getBoundingClientRect()]);
  return all.flatMap(([one, a], i) => [
    ...(one.scrollWidth > one.clientWidth + 1 ? [one.outerHTML] : []),
    ...all.slice(i + 1).filter(([other, b]) => !one.contains(other) && a.left < b.right
      && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
      .map(([other]) => other.outerHTML),
  ]);
})()"""
SAID = "document.getElementById('said').textContent"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return crops_in_a_store(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def address(folder):
    with served(folder, "gate", "--pictures", "crops", *MODEL) as service:
        yield f"http://127.0.0.1:{service.port}/"


@pytest.fixture
def chromium(address, tmp_path):
    with browser(tmp_path) as found:
        yield found
        own = ("blob:", "data:", "http://127.0.0.1:")
        assert all(url.startswith(own) for url in found.requests)


def loaded(chromium):
    chromium.wait("document.querySelectorAll('#gallery li').length === 12")


def test_an_image_is_dropped_and_found(chromium, address, folder):
    chromium.open(address)
    loaded(chromium)
    image = folder / "crops" / "infrared" / "cam2" / "0001" / "0.png"
    chromium.choose("#file", image)
    chromium.run("document.getElementById('side').value = 'infrared'")
    chromium.click("#ask")
    chromium.wait(f"{HITS}.length === 12")
    assert image.samefile(chromium.run(NAMES)[0])
    assert chromium.run("document.getElementById('setting').value") == "mix"
    chromium.wait("[...document.querySelectorAll('#hits img')].every((each) => each.complete)")
    assert chromium.run("document.querySelectorAll('#hits img').length") == 12
    chromium.run("document.getElementById('modality').value = 'visible'")
    chromium.click("#options button")
    chromium.wait(f"{HITS}.length === 6")
    assert all("visible" in name for name in chromium.run(NAMES))
    assert not chromium.errors


def test_the_gallery_asks_by_keyboard(chromium, address):
    chromium.open(address)
    loaded(chromium)
    first = chromium.run("document.querySelector('#gallery .name').textContent")
    chromium.run("document.querySelector('#gallery button').focus()")
    chromium.press("Enter")
    chromium.wait(f"{HITS}.length === 11")
    assert first not in chromium.run(NAMES)
    assert chromium.run("document.activeElement.id") == "title"


def test_a_wrong_filter_is_said(chromium, address):
    chromium.open(address)
    loaded(chromium)
    chromium.run("document.getElementById('filter').value = 'camera == one'")
    chromium.click("#options button")
    chromium.wait(f"{SAID}.includes('Expected a whole number')")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1000])
def test_nothing_is_wider_than_the_window(chromium, address, width, dark):
    for page in (f"{address}api", address):
        chromium.open(page, width, dark=dark)
        assert chromium.run("document.documentElement.scrollWidth <= innerWidth")
    loaded(chromium)
    assert chromium.run("document.documentElement.scrollWidth <= innerWidth")
    assert chromium.run(CUT_OR_CROSSING) == []
    ground = chromium.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(21, 23, 27)" if dark else "rgb(255, 255, 255)")


def test_the_key_is_asked_for(folder, tmp_path):
    with served(folder, "gate", key=KEY) as service, browser(tmp_path) as chromium:
        chromium.open(f"http://127.0.0.1:{service.port}/")
        chromium.wait("!document.getElementById('access').hidden")
        chromium.run(f"document.getElementById('key').value = '{KEY}'")
        chromium.click("#access button")
        loaded(chromium)


@pytest.mark.parametrize("dark", [False, True])
def test_people_who_cannot_see_it_can_use_it(chromium, address, dark):
    pytest.importorskip("axe_core_python")
    chromium.open(address, dark=dark)
    loaded(chromium)
    assert chromium.scan() == []
