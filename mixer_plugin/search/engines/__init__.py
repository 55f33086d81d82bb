"""Mixed galleries in vector engines, under the rules of ``mixer_plugin.scores``."""

from __future__ import annotations

from mixer_plugin.search.engines.gallery import EngineGallery
from mixer_plugin.search.engines.milvus import MilvusEngine
from mixer_plugin.search.engines.protocol import Engine, Labels, Match
from mixer_plugin.search.engines.qdrant import QdrantEngine

__all__ = ["Engine", "EngineGallery", "Labels", "Match", "MilvusEngine", "QdrantEngine"]
