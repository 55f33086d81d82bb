"""A page of generated features, and what is in it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from mixer_plugin.evaluation import evaluate, get_protocol
from mixer_plugin.evaluation.report.content import features_page
from mixer_plugin.evaluation.report.page import render
from mixer_plugin.features import FeatureSet

PROTOCOL = get_protocol("full")
SYSTEMS = [("erased", None), ("mixer", None), ("mixer", "znorm"), ("mixer-shuffled", None)]


def make(folder=None, count=48, seed=0):
    """Images of six persons; with a folder, files of all but the last ones."""
    rng = np.random.default_rng(seed)
    modality = np.arange(count) % 2
    ids = rng.integers(0, 6, count)
    codes = rng.normal(size=(6, 8))
    paths = None
    if folder is not None:
        paths = [str(folder / f"image{row:02d}.png") for row in range(count)]
        for path in paths[:-4]:
            pixels = rng.integers(0, 256, (20, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    return FeatureSet(
        erased=codes[ids] + 1.5 * rng.normal(size=(count, 8)) + modality[:, None],
        related=codes[ids] + 1.5 * rng.normal(size=(count, 8)),
        ids=ids,
        cams=rng.integers(1, 4, count) + 3 * modality,
        modality=modality,
        paths=paths,
    )


def page_of(features, protocol=PROTOCOL, **options):
    results = evaluate(features, protocol, systems=SYSTEMS, **options)
    return results, features_page([("mine", features, results)], protocol)


def data_of(html):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', html)[1]
    )


class Elements(HTMLParser):
    """Every element of a page: name and attributes."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def assert_stands_alone(html):
    """No address leaves the page, every id is there once, and every reference has its target."""
    elements = Elements(html).found
    for tag, attributes in elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
        assert tag not in ("base", "iframe", "object", "embed")
    assert not re.search(r"https?://|@import|url\(", html)
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in elements:
        wanted = attributes.get("aria-labelledby") or attributes.get("aria-controls")
        assert wanted is None or wanted in ids
        link = attributes.get("href", "")
        assert not link.startswith("#") or link[1:] in ids


def html_of(features, **options):
    results, page = page_of(features, **options)
    return results, render(page)
