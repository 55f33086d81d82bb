"""Search of a gallery of both modalities, on FAISS."""

from __future__ import annotations

from mixer_plugin.search.hits import Hits
from mixer_plugin.search.index import MixedModalIndex
from mixer_plugin.search.recall import RecallReport, recall_report
from mixer_plugin.search.store import GalleryStore, StoreHits

__all__ = ["GalleryStore", "Hits", "MixedModalIndex", "RecallReport", "StoreHits", "recall_report"]
