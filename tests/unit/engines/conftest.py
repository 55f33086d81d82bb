"""Both engines as they run without a server; what is not installed is skipped."""

from __future__ import annotations

import itertools

import pytest

from mixer_plugin.search.engines import MilvusEngine, QdrantEngine

NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def clients(tmp_path_factory):
    """A client by engine, made when first asked for."""
    made = {}

    def client(name):
        if name not in made and name == "qdrant":
            pytest.importorskip("qdrant_client", reason="needs the extra 'qdrant'")
            made[name] = QdrantEngine.connect(":memory:", "none").client
        elif name not in made:
            pytest.importorskip("pymilvus", reason="needs the extra 'milvus'")
            pytest.importorskip("milvus_lite", reason="needs milvus-lite", exc_type=ImportError)
            path = tmp_path_factory.mktemp("milvus") / "galleries.db"
            made[name] = MilvusEngine.connect(str(path), "none", timeout=120).client
        return made[name]

    yield client
    for each in made.values():
        each.close()


@pytest.fixture(params=["qdrant", pytest.param("milvus", marks=pytest.mark.slow)])
def new_engine(request, clients):
    """Makes engines of collections that are not there yet."""
    kind = {"qdrant": QdrantEngine, "milvus": MilvusEngine}[request.param]
    client = clients(request.param)
    return lambda **options: kind(client, f"gallery{next(NUMBERS)}", **options)
