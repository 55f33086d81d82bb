"""The page in a real browser: sorting, choosing by mouse and keyboard, themes, a narrow screen."""

from __future__ import annotations

import pytest

from tests.browser import browser, find_browser
from tests.unit.report.report_cases import data_of, html_of, make

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium (Debian's package chromium)"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    path = folder / "page.html"
    path.write_text(html_of(make(folder))[1], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chromium(page, tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found
        # Of the whole module: nothing was asked for but the file, and the console is silent.
        assert {url for url in found.requests if not url.startswith("data:")} == {page.as_uri()}
        assert not found.errors


def column(chromium, number):
    return chromium.run(
        "[...document.querySelectorAll('#table-2-1 tbody tr:not([hidden])')]"
        f".map(row => row.cells[{number}].textContent)"
    )


def test_tables_sort_by_mouse_and_by_keyboard(chromium, page):
    chromium.open(page)
    head = "#table-2-1 thead th:nth-child(3)"
    before = column(chromium, 2)
    assert len(before) == 12
    chromium.click(f"{head} button")
    assert column(chromium, 2) == sorted(before, key=float, reverse=True)
    assert chromium.run(f"document.querySelector('{head}').ariaSort") == "descending"
    chromium.press("Enter")
    assert column(chromium, 2) == sorted(before, key=float)
    chromium.press("Tab")  # to the interval's heading
    chromium.press("Tab")
    chromium.press(" ")
    assert column(chromium, 4) == sorted(column(chromium, 4), key=float, reverse=True)
    assert chromium.run(f"document.querySelector('{head}').hasAttribute('aria-sort')") is False
    chromium.click(".unfold")
    assert len(column(chromium, 2)) == 24


def shown(chromium):
    """Names and marks of the first list, and the query."""
    return chromium.run(
        "[...document.querySelectorAll('.list:nth-of-type(2) li')].map(item =>"
        "[(item.querySelector('img') ?? item.querySelector('.name')).alt ??"
        " item.querySelector('.name').textContent, item.className])"
    ), int(chromium.run("document.getElementById('query').value"))


def expected(data, at, setting="mix", choice=0):
    of = data["images"][str(data["queries"][at])]["id"]
    return [
        [
            data["images"][str(row)]["name"],
            "item right" if data["images"][str(row)]["id"] == of else "item wrong",
        ]
        for row in data["entries"][choice][setting]["rows"][at]
    ]


def test_queries_are_chosen_by_mouse_and_by_keyboard(chromium, page):
    chromium.open(page)
    data = data_of(page.read_text())
    ap = data["entries"][0]["mix"]["ap"]
    found, at = shown(chromium)
    assert ap[at] == min(ap)
    assert found == expected(data, at)
    chromium.click("[data-jump=best]")
    found, at = shown(chromium)
    assert ap[at] == max(ap)
    assert found == expected(data, at)
    chromium.click("[data-jump=median]")
    assert ap[shown(chromium)[1]] == sorted(ap)[len(ap) // 2]
    chromium.click("[data-jump=gain]")
    gains = [b - a for a, b in zip(ap, data["entries"][1]["mix"]["ap"], strict=True)]
    assert gains[shown(chromium)[1]] == max(gains)
    chromium.run("document.getElementById('query').focus()")
    _, before = shown(chromium)
    chromium.press("ArrowUp" if before else "ArrowDown")
    found, after = shown(chromium)
    assert after == (before - 1 if before else 1)
    assert found == expected(data, after)
    for _ in range(6):  # past worst, median, best, gain and loss to the button before
        chromium.press("Tab")
    assert chromium.run("document.activeElement.dataset.jump") == "previous"
    chromium.press("Enter")
    assert shown(chromium)[1] == max(after - 1, 0)
    chromium.run(
        "(() => {const s = document.getElementById('setting'); s.value = 'mix-id';"
        "s.dispatchEvent(new Event('change'))})()"
    )
    found, at = shown(chromium)
    assert found == expected(data, at, "mix-id")
    lists = "document.querySelectorAll('.list').length"
    assert chromium.run(lists) == 2
    chromium.run(
        "(() => {const s = document.getElementById('right'); s.value = '';"
        "s.dispatchEvent(new Event('change'))})()"
    )
    assert chromium.run(lists) == 1
    assert chromium.run("document.querySelector('[data-jump=gain]').disabled") is True
    assert "camera" in chromium.run("document.getElementById('said').textContent")


# Contrast of the text with its ground, by WCAG's formula.
CONTRAST = """(() => {
  const light = (text) => {
    const part = text.match(/[\\d.]+/g).slice(0, 3).map(Number).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  return ["p", "td", "th", "a", "button", "strong", ".badge.v", ".badge.i", ".right strong",
    ".wrong strong", "figcaption", "caption"].map((name) => {
    const element = document.querySelector(name);
    const both = [light(getComputedStyle(element).color), light(ground(element))].sort();
    return [name, (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05)];
  });
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_both_themes_can_be_read(chromium, page, dark):
    theme = "document.documentElement.dataset.theme"
    chromium.open(page, dark=dark)
    assert chromium.run(theme) == ("dark" if dark else "light")
    for name, contrast in chromium.run(CONTRAST):
        assert contrast >= 4.5, name
    chromium.click("#theme")
    assert chromium.run(theme) == ("light" if dark else "dark")
    for name, contrast in chromium.run(CONTRAST):
        assert contrast >= 4.5, name


@pytest.mark.parametrize("dark", [False, True])
def test_people_who_cannot_see_it_can_use_it(chromium, page, dark):
    pytest.importorskip("axe_core_python")
    chromium.open(page, dark=dark)
    assert chromium.scan() == []
    chromium.click(".unfold")
    assert chromium.scan() == []
    chromium.run("document.body.append(new Image())")
    assert [each.split(":")[0] for each in chromium.scan()] == ["image-alt"]


@pytest.mark.parametrize("width", [400, 1000])
def test_nothing_is_cut_off_or_lies_on_another(chromium, page, width):
    chromium.open(page, width)
    assert chromium.run("document.documentElement.scrollWidth <= innerWidth")
    outside = chromium.run(
        "[...document.querySelectorAll('svg.chart text')].filter(text => {"
        "const a = text.getBoundingClientRect();"
        "const b = text.closest('svg').getBoundingClientRect();"
        "return a.left < b.left - .5 || a.right > b.right + .5 || a.top < b.top - .5"
        " || a.bottom > b.bottom + .5}).map(text => text.textContent)"
    )
    assert outside == []
    crossing = chromium.run(
        "[...document.querySelectorAll('svg.chart')].flatMap(svg => {"
        "const all = [...svg.querySelectorAll('text')].map(t => [t, t.getBoundingClientRect()]);"
        "return all.flatMap(([t, a], i) => all.slice(i + 1).filter(([u, b]) => a.left < b.right &&"
        " b.left < a.right && a.top < b.bottom && b.top < a.bottom)"
        ".map(([u]) => `${t.textContent} on ${u.textContent}`))})"
    )
    assert crossing == []
    cards = chromium.run(
        "[...document.querySelectorAll('.item')].filter(item => item.scrollWidth >"
        " item.clientWidth || item.scrollHeight > item.clientHeight).length"
    )
    assert cards == 0
