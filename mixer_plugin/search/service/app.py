"""The addresses of a service, and what each does."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse

from mixer_plugin import __version__
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.settings import SETTINGS
from mixer_plugin.search.service.access import body_reader, check_allowed
from mixer_plugin.search.service.bodies import Embed, ImageLabels, read_body
from mixer_plugin.search.service.gallery import Gallery
from mixer_plugin.search.service.metrics import Metrics, Watched
from mixer_plugin.search.service.pages import SAFE, api_page, search_page
from mixer_plugin.search.service.pictures import picture
from mixer_plugin.search.service.refusals import Refused, add_refusals, as_json
from mixer_plugin.search.service.requests import add, find, key_of, remove
from mixer_plugin.search.service.settings import ServiceSettings

_MOST_K, _MOST_LISTED = 1000, 1000
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "description": "Features as one JSON object or as .npz, or an image.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["erased", "modality"],
                    "properties": {
                        "erased": {"description": "A list of numbers per image."},
                        "related": {"description": "The same, where the rule needs it."},
                        "modality": {"description": "visible or infrared, per image."},
                        "ids": {"description": "Persons; -1: unknown, also without ids."},
                        "cams": {"description": "Cameras; -1 without cams."},
                        "paths": {"description": "Of the image files."},
                        "keys": {"description": "To add: whole numbers or texts."},
                        "times": {"description": "To add: seconds since 1970 or null."},
                        "payloads": {"description": "To add: an object or null per image."},
                    },
                }
            },
            "application/octet-stream": _BINARY,
            "image/*": _BINARY,
        },
    }
}
_LABELS = {
    "modality": Query(None, description="Of an image: visible or infrared"),
    "camera": Query(None, description="Of an image (else -1)", ge=-(2**62), le=2**62),
    "id": Query(None, description="Of an image: the person (else -1, unknown)", ge=-(2**62)),
}
_FILTER = Query(None, description="Such as: camera in (1, 2) and modality == infrared")
_KEYS = Query([], alias="key", description="Of an image of the gallery; may be repeated")


def make_app(gallery: Gallery, settings: ServiceSettings, embed: Embed | None = None) -> FastAPI:
    """The service of a gallery, which stays open as long as the service runs."""
    metrics = Metrics(lambda: len(gallery))
    app = FastAPI(title="mixer-plugin", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(Watched, metrics=metrics, most=settings.most_requests)
    add_refusals(app)

    async def allowed(request: Request) -> None:
        check_allowed(request, settings)

    guarded = [Depends(allowed)]
    body_of = body_reader(settings)
    page = search_page()

    @app.get("/", response_class=HTMLResponse, summary="A page to search with")
    def show_page() -> Response:
        return HTMLResponse(page, headers=SAFE)

    @app.get("/api", response_class=HTMLResponse, summary="This list")
    def show_api() -> Response:
        return HTMLResponse(api_page(app.openapi()), headers=SAFE)

    @app.get("/health", summary="Whether the gallery can be read, and what the service takes")
    def health() -> Response:
        len(gallery)
        about: dict[str, Any] = {
            "status": "ok",
            "rule": gallery.rule,
            "settings": list(SETTINGS),
        }
        about |= {"takes_images": embed is not None, "needs_key": settings.key is not None}
        return as_json(about | {"shows_pictures": settings.pictures is not None})

    @app.get("/metrics", dependencies=guarded, summary="Figures for Prometheus")
    def figures() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/images", dependencies=guarded, summary="What is known of images")
    def list_images(
        keys: list[str] = _KEYS,
        filter: str | None = _FILTER,
        limit: int = Query(50, ge=1, le=_MOST_LISTED, description="At most so many"),
    ) -> Response:
        if keys and filter is not None:
            raise MixERValueError("Give either key or filter.")
        if keys:
            found = gallery.get([key_of(gallery, key) for key in keys])
        else:  # of one state: others may remove images between two calls
            found = gallery.images(filter, limit=limit)
        return as_json({"images": found, "total": len(gallery)})

    @app.post(
        "/images", dependencies=guarded, openapi_extra=_BODY, status_code=201, summary="Add images"
    )
    def add_images(
        body: bytes = Depends(body_of),
        upsert: bool = Query(False, description="Whether to replace images of the same keys"),
        modality: str | None = _LABELS["modality"],
        camera: int | None = _LABELS["camera"],
        id: int | None = _LABELS["id"],
        key: str | None = Query(None, description="Of an image (else its path, or a number)"),
        path: str | None = Query(None, description="Of an image: where its file lies"),
        time: str | None = Query(None, description="Of an image: seconds since 1970 or a date"),
        payload: str | None = Query(None, description="Of an image: a JSON object"),
    ) -> Response:
        labels = ImageLabels(modality, camera, id)
        brought = read_body(body, labels, embed, settings.most_bytes)
        added = add(gallery, brought, upsert, key=key, path=path, time=time, payload=payload)
        return as_json({"keys": added, "total": len(gallery)}, 201)

    @app.delete("/images", dependencies=guarded, summary="Remove images by key or by a filter")
    def remove_images(keys: list[str] = _KEYS, filter: str | None = _FILTER) -> Response:
        return as_json({"removed": remove(gallery, keys, filter), "total": len(gallery)})

    @app.post(
        "/search", dependencies=guarded, openapi_extra=_BODY, summary="The best images of queries"
    )
    def search(
        body: bytes = Depends(body_of),
        k: int = Query(10, ge=1, le=_MOST_K, description="Hits per query"),
        filter: str | None = _FILTER,
        setting: str = Query("mix", description="A setting of evaluate, such as mix-cam"),
        threshold: float | None = Query(
            None, allow_inf_nan=False, description="The least score of a hit"
        ),
        group_by: str | None = Query(None, description="id or payload.NAME: the best of each"),
        keys: list[str] = _KEYS,
        modality: str | None = _LABELS["modality"],
        camera: int | None = _LABELS["camera"],
        id: int | None = _LABELS["id"],
    ) -> Response:
        labels = ImageLabels(modality, camera, id)
        if keys and (body or labels.given()):
            raise MixERValueError("Give either key, or a body with its labels.")
        brought = None if keys else read_body(body, labels, embed, settings.most_bytes)
        options = {"filter": filter, "setting": setting, "threshold": threshold}
        return as_json(find(gallery, brought, keys, k, **options, group_by=group_by))

    @app.get("/picture", dependencies=guarded, summary="A small picture of an image of the gallery")
    def show_picture(key: str) -> Response:
        if settings.pictures is None:
            raise Refused(404, "This service shows no images; start it with --pictures FOLDER.")
        (image,) = gallery.get([key_of(gallery, key)])
        content = picture(image["path"], settings.pictures)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    return app
