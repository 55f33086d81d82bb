"""Collections by one word, for a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mixer_plugin.errors import MixERValueError
from mixer_plugin.search.engines.milvus import MilvusEngine
from mixer_plugin.search.engines.qdrant import QdrantEngine

_ENGINES = ("qdrant+", "milvus+")


def is_address(word: str) -> bool:
    """Whether a word begins as an address of a collection does."""
    return word.startswith(_ENGINES)


def connect(address: str, key: str | None = None) -> QdrantEngine | MilvusEngine:
    """The engine of a collection that is there already.

    Args:
        address: ``qdrant+URL/NAME``, ``qdrant+FOLDER/NAME``, ``milvus+URL/NAME`` or
            ``milvus+FILE.db/NAME``: what follows the last ``/`` is the collection's name. A URL
            begins with ``http://`` or ``https://``.
        key: Of the server: the API key of Qdrant, the token of Milvus.

    Raises:
        MixERValueError: No such address, a URL with a password, or no such folder or file.
        MissingExtraError: The engine's client is not installed.
        MixERRuntimeError: The engine does not answer, or refuses.
    """
    kind, _, rest = address.partition("+")
    place, _, name = rest.rpartition("/")
    remote = rest.startswith(("http://", "https://"))
    parts = urlsplit(rest if remote else "")
    if parts.username is not None or parts.query or parts.fragment:
        raise MixERValueError(
            "The address of a collection is ENGINE+URL/NAME, without a name of a user, a password, "
            "or anything after ? or #; the key does not belong there."
        )
    missing = not name or (parts.path.count("/") < 1 if remote else not place)
    if not is_address(address) or missing or (remote and not parts.hostname):
        raise MixERValueError(
            f"{address!r} is no address of a collection; expected one such as "
            "qdrant+http://localhost:6333/NAME, qdrant+FOLDER/NAME, "
            "milvus+http://localhost:19530/NAME or milvus+FILE.db/NAME."
        )
    if kind == "qdrant":
        if not remote and not Path(place).is_dir():
            raise MixERValueError(f"{place} is no folder; Qdrant keeps collections in one.")
        return QdrantEngine.connect(place, name, **({"api_key": key} if remote and key else {}))
    if not remote and not (place.endswith(".db") and Path(place).exists()):
        raise MixERValueError(
            f"{place} is no file that ends in .db; Milvus keeps collections in one."
        )
    token: dict[str, Any] = {"token": key} if remote and key else {}
    return MilvusEngine.connect(place, name, **token)
