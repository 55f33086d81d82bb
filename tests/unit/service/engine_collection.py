"""Collections of engines that run without a server, for services."""

from __future__ import annotations

import importlib
from contextlib import closing

import pytest

from mixer_plugin.search.engines import EngineGallery, MilvusEngine, QdrantEngine

WORDS = {"qdrant": "qdrant+vectors/gate", "milvus": "milvus+vectors.db/gate"}


def new_collection(kind, folder, images, **options):
    """Makes the collection ``gate`` in a folder; returns its address there."""
    if kind == "qdrant":
        pytest.importorskip("qdrant_client", reason="needs the extra 'qdrant'")
        engine = QdrantEngine.connect(str(folder / "vectors"), "gate")
    else:
        pytest.importorskip("pymilvus", reason="needs the extra 'milvus'")
        pytest.importorskip("milvus_lite", reason="needs milvus-lite", exc_type=ImportError)
        engine = MilvusEngine.connect(str(folder / "vectors.db"), "gate", timeout=120)
    with closing(EngineGallery.create(engine, images, **options)):
        pass
    if kind == "milvus":  # this process would hold the file until it ends
        manager = importlib.import_module("milvus_lite.server_manager").server_manager_instance
        manager.release_server(str(folder / "vectors.db"))
    return WORDS[kind]
