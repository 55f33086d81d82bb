"""Facts of the four released data sets: cameras, splits and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

Cameras = tuple[tuple[int, ...], tuple[int, ...]]  # visible, infrared
Counts = dict[str, tuple[int, int]]  # what is counted -> (found, in the release)


@dataclass(frozen=True, kw_only=True)
class Release:
    """A released data set.

    Attributes:
        name: Its name.
        cameras: Cameras of the test images, visible and infrared.
        train: Numbers for training: identities, visible images, infrared images.
    """

    name: str
    cameras: Cameras
    train: tuple[int, int, int]

    @property
    def infrared(self) -> tuple[int, ...]:
        """The infrared cameras."""
        return self.cameras[1]

    @property
    def every_camera(self) -> tuple[int, ...]:
        """All cameras, in order."""
        return tuple(sorted({*self.cameras[0], *self.cameras[1]}))


# Wu et al., ICCV 2017; counted from the release's rand_perm_cam.mat. `train` is train and
# validation together, by the papers that use both.
SYSU = Release(name="SYSU-MM01", cameras=((1, 2, 4, 5), (3, 6)), train=(395, 22258, 11909))
SYSU_INDOOR: Cameras = ((1, 2), (3, 6))
SYSU_IDENTITIES = {"train": 296, "val": 99, "test": 96}
SYSU_IMAGES = {  # (identities, images) of cameras 1 to 6
    "train": ((194, 4721), (195, 5753), (293, 5929), (283, 4821), (294, 4989), (200, 4000)),
    "test": ((56, 1374), (56, 1565), (93, 1883), (94, 1918), (95, 1918), (96, 1920)),
}
# Nguyen et al., Sensors 2017: ten splits into halves, ten images per identity and modality. It
# numbers no cameras.
REGDB = Release(name="RegDB", cameras=((1,), (2,)), train=(206, 2060, 2060))
REGDB_SPLITS = tuple(range(1, 11))
# Zhang and Wang, CVPR 2023. For training, camera 3 is infrared as well.
LLCM = Release(
    name="LLCM",
    cameras=((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 4, 5, 6, 7, 8, 9)),
    train=(713, 16946, 13975),
)
# Zheng et al., ICCV 2015.
MARKET = Release(name="Market-1501", cameras=((1, 2, 3, 4, 5, 6), ()), train=(751, 12936, 0))
MARKET_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
MARKET_JUNK, MARKET_DISTRACTOR = -1, 0  # identities


def count_sysu(ids: Sequence[int], cams: Sequence[int]) -> Counts:
    """Test images of SYSU-MM01, by the labels of each."""
    images = {
        f"images of camera {cam}": (cams.count(cam), known)
        for cam, (_, known) in enumerate(SYSU_IMAGES["test"], start=1)
    }
    return {"identities": (len(set(ids)), SYSU_IDENTITIES["test"]), **images}


def count_regdb(ids: Sequence[int], modality: Sequence[int]) -> Counts:
    """Test images of one split of RegDB, by the labels of each."""
    images, identities = Counter(zip(ids, modality, strict=True)), set(ids)
    whole = sum(images[identity, 0] == images[identity, 1] == 10 for identity in identities)
    return {
        "identities": (len(identities), 206),
        "identities with 10 images in each modality": (whole, 206),
    }


def count_llcm(ids: Sequence[int], cams: Sequence[int], modality: Sequence[int]) -> Counts:
    """Test images of LLCM, by the labels of each."""
    rows = zip(ids, cams, modality, strict=True)
    pairs = {(identity, cam) for identity, cam, infrared in rows if infrared}
    return {
        "identities": (len(set(ids)), 351),
        "visible images": (modality.count(0), 8680),
        "infrared images": (modality.count(1), 7166),
        "pairs of identity and infrared camera": (len(pairs), 619),
    }


def count_market(ids: Sequence[int], folders: Sequence[str]) -> Counts:
    """Test images of Market-1501, by the identity and the folder of each."""
    asking, held = (
        [identity for identity, folder in zip(ids, folders, strict=True) if folder == wanted]
        for wanted in MARKET_FOLDERS[1:]
    )
    junk = held.count(MARKET_JUNK)
    return {
        "queries": (len(asking), 3368),
        "identities of queries": (len(set(asking)), 750),
        "gallery images": (len(held) - junk, 15913),
        "distractors": (held.count(MARKET_DISTRACTOR), 2798),
        "junk images": (junk, 3819),
    }
