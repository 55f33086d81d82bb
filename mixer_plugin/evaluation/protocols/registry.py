"""The protocols by name."""

from __future__ import annotations

import os
from typing import Any

from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.evaluation.protocols.base import CMC, NoPositive, Protocol
from mixer_plugin.evaluation.protocols.gallery_draws import Permutation, read_permutation
from mixer_plugin.evaluation.protocols.llcm import LlcmProtocol
from mixer_plugin.evaluation.protocols.market import MarketProtocol
from mixer_plugin.evaluation.protocols.regdb import RegdbProtocol
from mixer_plugin.evaluation.protocols.sysu import SEARCHES, SHOTS, SysuProtocol
from mixer_plugin.evaluation.settings import SameCamera
from mixer_plugin.releases import REGDB_SPLITS

__all__ = ["PROTOCOLS", "Protocol", "get_protocol"]

# Name → what it is, in a line.
PROTOCOLS = {
    "full": "any images: each is a query, all stand in the gallery",
    **{
        f"sysu/{search}/{shots}": f"SYSU-MM01, {search} search, {shots}-shot, ten official draws"
        for search in SEARCHES
        for shots in SHOTS
    },
    **{
        f"sysu/{search}/single@ye": f"SYSU-MM01, {search} search, draws of public training scripts"
        for search in SEARCHES
    },
    **{
        f"regdb/{split}": f"RegDB, split {split}: the one that the model was trained on"
        for split in REGDB_SPLITS
    },
    "llcm/sampled": "LLCM, one gallery image per identity and camera, ten draws",
    "llcm/full": "LLCM, every test image stands in the gallery",
    "market1501": "Market-1501, visible images alone",
}


def get_protocol(
    id: str,
    *,
    permutation: str | os.PathLike[str] | NDArray[Any] | Permutation | None = None,
    cmc: CMC | None = None,
    same_camera: SameCamera | None = None,
    no_positive: NoPositive = "drop",
    colocated_mixed: bool = False,
) -> Protocol:
    """Makes a protocol.

    Args:
        id: ``full`` (any images, all in the gallery); ``sysu/all/single``, ``sysu/all/multi``,
            ``sysu/indoor/single``, ``sysu/indoor/multi`` (official permutation); or
            ``sysu/all/single@ye``, ``sysu/indoor/single@ye`` (seeded draw of the public training
            scripts, which have no multi-shot); ``regdb/1`` to ``regdb/10`` (the split that the
            model was trained on); ``llcm/sampled`` (one gallery image per identity and camera, ten
            draws) or ``llcm/full`` (every test image); ``market1501``.
        permutation: The official draws: path of ``rand_perm_cam.mat``, its content, or camera ->
            identity -> [trials, images]. None: ``exp/rand_perm_cam.mat`` of the folder that the
            features' absolute paths lie in.
        cmc: ``dedup`` or ``standard``; None: ``dedup`` for SYSU-MM01 and LLCM, else ``standard``.
        same_camera: What ``cross`` and ``uni`` remove of the query's own camera: ``any-id``,
            ``same-id`` or ``keep``. None: ``any-id`` for SYSU-MM01 and ``full``, ``same-id`` for
            ``llcm/sampled`` and Market-1501, ``keep`` for RegDB and ``llcm/full``.
        no_positive: Whether queries without a positive are left out and counted (``drop``) or
            are an ``error``.
        colocated_mixed: Whether ``mix-cam`` and ``mix-cam-id`` treat SYSU-MM01's cameras 2 and 3,
            which look at one place, as one.

    Returns:
        The protocol.

    Raises:
        MixERValueError: Unknown id or option, an option that this protocol has no use for, or a
            permutation that cannot be read.
        MissingExtraError: The permutation is a file, and SciPy (7.3: h5py) is not installed.

    Example:
        >>> protocol = get_protocol("regdb/3")
        >>> protocol.query, protocol.cmc, protocol.same_camera
        ('infrared', 'standard', 'keep')
    """
    check_name("protocol", id, PROTOCOLS)
    family, *parts = id.removesuffix("@ye").split("/")
    official = family == "sysu" and not id.endswith("@ye")
    if permutation is not None and not official:
        raise MixERValueError(f"Protocol {id!r} uses no permutation; leave permutation=None.")
    if colocated_mixed and family != "sysu":
        raise MixERValueError(
            "colocated_mixed is for SYSU-MM01's cameras 2 and 3; leave it False for protocol "
            f"{id!r}."
        )
    # What is left open is the data set's to say.
    given = {"cmc": cmc, "same_camera": same_camera, "no_positive": no_positive}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if family == "sysu":
        search, shots = parts
        return SysuProtocol(
            id=id,
            draw="official" if official else "ye",
            cameras=SEARCHES[search],
            shots=SHOTS[shots],
            colocated_mixed=colocated_mixed,
            permutation=None if permutation is None else read_permutation(permutation),
            **options,
        )
    if family == "llcm":
        sampled = parts == ["sampled"]
        options.setdefault("same_camera", "same-id" if sampled else "keep")
        return LlcmProtocol(id=id, sampled=sampled, **options)
    if family == "regdb":
        return RegdbProtocol(id=id, **options)
    return (MarketProtocol if family == "market1501" else Protocol)(id=id, **options)


def as_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol given, or the one of this id with its usual options."""
    return get_protocol(protocol) if isinstance(protocol, str) else protocol
