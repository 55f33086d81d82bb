"""Counts and times requests, for Prometheus and for the log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mixer_plugin.search.service.refusals import refusal


class Metrics:
    """The figures of one service."""

    def __init__(self, images: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._images = images
        self.requests = Counter(
            "mixer_requests", "Requests.", ["method", "route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "mixer_request_seconds", "Time of a request.", ["route"], registry=self._registry
        )
        self.running = Gauge("mixer_running_requests", "Now.", registry=self._registry)
        self._stored = Gauge("mixer_images", "Images in the gallery.", registry=self._registry)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        self._stored.set(self._images())
        return generate_latest(self._registry)


class Watched:
    """Passes requests on, within a number at once, counts them, and logs a line of each.

    The line has neither the address' parameters nor a key nor who asked.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, most: int) -> None:
        self._app, self._metrics, self._most, self._running = app, metrics, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        full = self._running >= self._most
        self._running += 1
        self._metrics.running.set(self._running)
        try:
            if full:
                busy = f"The service works on {self._most} requests already; ask again."
                await refusal(503, "Refused", busy)(scope, receive, sent)
            else:
                await self._app(scope, receive, sent)
        finally:
            self._running -= 1
            self._metrics.running.set(self._running)
            # Not the path as given: anyone can ask for endlessly many.
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if route != "none" else "none"
            seconds = time.perf_counter() - started
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            line = {"method": method, "route": route, "status": status}
            line["milliseconds"] = round(1000 * seconds, 1)
            with suppress(OSError):  # nobody reads the log
                print(json.dumps({"event": "request", **line}), file=sys.stderr, flush=True)
