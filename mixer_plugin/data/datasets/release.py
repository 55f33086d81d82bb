"""The known counts of the four releases, and where a folder differs from them.

Those of the test sets are the evaluation protocols' own (``mixer_plugin.evaluation``).
"""

from __future__ import annotations

import numpy as np

from mixer_plugin.data.datasets.findings import Finding
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.sysu_checks import CAMERAS, INFRARED_CAMERAS
from mixer_plugin.evaluation.protocols import get_protocol
from mixer_plugin.evaluation.protocols.market import JUNK
from mixer_plugin.evaluation.protocols.sysu import TEST_IDENTITIES, TEST_IMAGES
from mixer_plugin.features import FeatureSet

Counts = dict[int, tuple[int, int]]  # camera -> (identities, images)

# The release, counted from its rand_perm_cam.mat. Train and validation together are given by the
# papers that use both: 22,258 visible and 11,909 infrared images.
_SYSU_IDS = {"train": 296, "val": 99, "test": TEST_IDENTITIES}
_SYSU: dict[str, Counts] = {
    "train": {
        1: (194, 4721),
        2: (195, 5753),
        3: (293, 5929),
        4: (283, 4821),
        5: (294, 4989),
        6: (200, 4000),
    },
    "test": {
        cam: (identities, TEST_IMAGES[cam])
        for cam, identities in enumerate((56, 56, 93, 94, 95, 96), start=1)
    },
}
_SYSU_TRAINVAL = {"visible": 22258, "infrared": 11909}

# Identities, visible and infrared images of the training sets: Nguyen et al., Sensors 2017 (each
# split's half); Zhang and Wang, CVPR 2023; Zheng et al., ICCV 2015.
_TRAIN = {"regdb": (206, 2060, 2060), "llcm": (713, 16946, 13975), "market": (751, 12936, 0)}
_MARKET_JUNK = 3819
_NAMES = {"regdb": "RegDB", "llcm": "LLCM", "market": "Market-1501"}
_PROTOCOLS = {"regdb": "regdb/1", "llcm": "llcm/sampled", "market": "market1501"}
_FIX = "Some files are missing or added: results are not comparable."


def compare_sysu(sizes: dict[str, int], counts: dict[str, Counts]) -> list[Finding]:
    """Findings where splits of the sizes of SYSU-MM01's release hold other images.

    Args:
        sizes: Identities by split.
        counts: (identities, images) by split and camera.
    """
    if sizes != _SYSU_IDS:
        return []
    findings = [
        Finding("info", "The splits have the sizes of SYSU-MM01's release (296, 99 and 96).")
    ]
    for split, known in _SYSU.items():
        for cam, (n_ids, n_images) in known.items():
            have = counts.get(split, {}).get(cam)
            if have is not None and have != (n_ids, n_images):
                what = (
                    f"{split}, cam{cam}: {have[1]} images of {have[0]} identities; "
                    f"SYSU-MM01 has {n_images} of {n_ids}."
                )
                findings.append(Finding("warning", what, _FIX))
    if {"train", "val"} <= counts.keys():
        for name, expected in _SYSU_TRAINVAL.items():
            cams = [cam for cam in CAMERAS if (cam in INFRARED_CAMERAS) == (name == "infrared")]
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
    protocol = get_protocol(_PROTOCOLS[layout])
    found = protocol.counts(_as_features(test))
    ids = "identities of queries" if layout == "market" else "identities"
    n_train = len(set(train.ids.tolist()))
    if n_train != _TRAIN[layout][0] or found[ids][0] != found[ids][1]:
        return []
    name = _NAMES[layout]
    what = f"The splits have the sizes of {name}'s release ({n_train} and {found[ids][1]})."
    findings = [Finding("info", what)]
    infrared = int(train.modality.sum())
    both = {
        "visible images": (len(train) - infrared, _TRAIN[layout][1]),
        "infrared images": (infrared, _TRAIN[layout][2]),
    }
    if layout == "market":
        found["junk images"] = (int((test.ids == JUNK).sum()), _MARKET_JUNK)
    for split, counts in (("train", both), ("test", found)):
        findings += [
            Finding("warning", f"{split}: {have} {kind}; {name} has {known}.", _FIX)
            for kind, (have, known) in counts.items()
            if have != known
        ]
    return findings


def _as_features(images: ImageList) -> FeatureSet:
    blank = np.zeros((len(images), 1), dtype=np.float32)
    return FeatureSet(blank, None, images.ids, images.cams, images.modality, images.paths)
