"""The pages of a service: one to search with, one that lists its addresses."""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from importlib.resources import files
from typing import Any


def _read(name: str) -> str:
    return files("mixer_plugin.search.service").joinpath(name).read_text(encoding="utf-8")


def search_page() -> str:
    """The page to search with, whole: it asks this service for all else, and nobody else."""
    text = _read("page.html")
    marks = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    ]
    allowed = " ".join(f"'sha256-{mark}'" for mark in marks)
    return text.replace("SCRIPTS", allowed)


SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


def api_page(api: dict[str, Any]) -> str:
    """What OpenAPI says of the addresses, as a page without a script."""
    parts = []
    for path, methods in api["paths"].items():
        for method, about in methods.items():
            rows = "".join(
                f"<tr><td><code>{escape(each['name'])}</code><td>"
                f"{escape(str(each.get('schema', {}).get('default', '')))}<td>"
                f"{escape(each.get('description', ''))}"
                for each in about.get("parameters", [])
            )
            table = f"<table><tr><th>parameter<th>default<th>meaning{rows}</table>" if rows else ""
            body = about.get("requestBody", {})
            kinds = ", ".join(map(escape, body.get("content", {})))
            said = f"<p>{escape(body.get('description', ''))} <code>{kinds}</code></p>"
            parts.append(
                f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
                f"<p>{escape(about.get('summary', ''))}</p>{said if body else ''}{table}"
            )
    return _read("api.html").replace("CONTENT", "\n".join(parts))
