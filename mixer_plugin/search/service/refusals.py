"""Errors as answers: a status and a sentence."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mixer_plugin.errors import MixERError, MixERRuntimeError

_BY_STATUS = {
    404: "There is no such page; GET /api lists what there is.",
    405: "This address does not take this method; GET /api lists those that it takes.",
}


class Refused(Exception):
    """A request that is not done.

    Args:
        status: Of HTTP, 4xx or 503.
        message: A sentence on what was given, what was expected and what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def as_json(content: Any, status: int = 200) -> Response:
    """An answer in ASCII: names of files may hold what UTF-8 cannot."""
    text = json.dumps(content, allow_nan=False)
    return Response(text, status, media_type="application/json")


def refusal(status: int, kind: str, message: str) -> Response:
    """The answer to a request that is not done."""
    answer = as_json({"error": {"kind": kind, "message": message}}, status)
    if status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        answer.headers["Retry-After"] = "1"
    if status in (408, 413):  # what is left of the body is not read
        answer.headers["Connection"] = "close"
    return answer


def add_refusals(app: FastAPI) -> None:
    """Makes every error an answer of one form."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return refusal(error.status, "Refused", error.message)

    @app.exception_handler(MixERError)
    async def wrong(request: Request, error: MixERError) -> Response:
        # A closed or locked store, an engine that does not answer: it may work later.
        status = 503 if isinstance(error, MixERRuntimeError) else 422
        return refusal(status, type(error).__name__, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = first["loc"][-1] if first["loc"] else "request"
        return refusal(422, "InvalidParameter", f"{name}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> Response:
        message = _BY_STATUS.get(error.status_code, f"{error.detail}.")
        return refusal(error.status_code, "Refused", message)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return refusal(400, "Refused", "The connection ended before the body did.")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        message = "The service failed at this request; its log says where. Nothing else is known."
        return refusal(500, "Failed", message)
