"""A gallery in a folder that many search while some add."""

from __future__ import annotations

from mixer_plugin.search.store.hits import StoreHits
from mixer_plugin.search.store.store import GalleryStore

__all__ = ["GalleryStore", "StoreHits"]
