"""Where a folder differs from the known counts of its release."""

from __future__ import annotations

from pathlib import Path

from mixer_plugin.data.datasets.findings import Finding
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.releases import (
    LLCM,
    MARKET,
    REGDB,
    SYSU,
    SYSU_IDENTITIES,
    SYSU_IMAGES,
    Counts,
    count_llcm,
    count_market,
    count_regdb,
)

ByCamera = dict[int, tuple[int, int]]  # camera -> (identities, images)
_RELEASES = {"regdb": REGDB, "llcm": LLCM, "market": MARKET}
_FIX = "Some files are missing or added: results are not comparable."


def compare_sysu(sizes: dict[str, int], counts: dict[str, ByCamera]) -> list[Finding]:
    """Findings where splits of the sizes of SYSU-MM01's release hold other images.

    Args:
        sizes: Identities by split.
        counts: (identities, images) by split and camera.
    """
    if sizes != SYSU_IDENTITIES:
        return []
    findings = [
        Finding("info", "The splits have the sizes of SYSU-MM01's release (296, 99 and 96).")
    ]
    for split, known in SYSU_IMAGES.items():
        for cam, (n_ids, n_images) in enumerate(known, start=1):
            have = counts.get(split, {}).get(cam)
            if have is not None and have != (n_ids, n_images):
                what = (
                    f"{split}, cam{cam}: {have[1]} images of {have[0]} identities; "
                    f"SYSU-MM01 has {n_images} of {n_ids}."
                )
                findings.append(Finding("warning", what, _FIX))
    if {"train", "val"} <= counts.keys():
        sides = zip(("visible", "infrared"), SYSU.cameras, SYSU.train[1:], strict=True)
        for name, cams, expected in sides:
            have_images = sum(
                counts[split].get(cam, (0, 0))[1] for split in ("train", "val") for cam in cams
            )
            if have_images != expected:
                what = (
                    f"train and val together: {have_images} {name} images; "
                    f"SYSU-MM01 has {expected}."
                )
                findings.append(Finding("warning", what, _FIX))
    return findings


def compare(layout: str, train: ImageList, test: ImageList) -> list[Finding]:
    """Findings where splits of the sizes of a release hold other images.

    Args:
        layout: ``regdb`` (one trial), ``llcm`` or ``market``.
        train: The training images.
        test: The test images, queries and gallery.
    """
    release, found = _RELEASES[layout], _count_test(layout, test)
    sizes = found["identities of queries" if layout == "market" else "identities"]
    n_train = len(set(train.ids.tolist()))
    if n_train != release.train[0] or sizes[0] != sizes[1]:
        return []
    what = f"The splits have the sizes of {release.name}'s release ({n_train} and {sizes[0]})."
    findings = [Finding("info", what)]
    infrared = int(train.modality.sum())
    both = {
        "visible images": (len(train) - infrared, release.train[1]),
        "infrared images": (infrared, release.train[2]),
    }
    for split, counts in (("train", both), ("test", found)):
        findings += [
            Finding("warning", f"{split}: {have} {kind}; {release.name} has {known}.", _FIX)
            for kind, (have, known) in counts.items()
            if have != known
        ]
    return findings


def _count_test(layout: str, test: ImageList) -> Counts:
    ids, cams, modality = (each.tolist() for each in (test.ids, test.cams, test.modality))
    if layout == "market":
        return count_market(ids, [Path(path).parent.name for path in test.paths])
    return count_regdb(ids, modality) if layout == "regdb" else count_llcm(ids, cams, modality)
