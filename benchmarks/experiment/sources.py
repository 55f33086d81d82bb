"""The images that a run trains and tests on: generated, or of data sets on disk."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.layouts import LAYOUTS, check_layout, detect_layout, read_images
from mixer_plugin.data.synthetic import SyntheticConfig, write_layout
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.options import check_options, option
from mixer_plugin.releases import REGDB_SPLITS

CUES, NO_CUE = "cues", "no-cue"
_SHARE = re.compile(r"cue=(0|1|0?\.\d+)")
_PROTOCOLS = {
    "sysu": "sysu/all/single",
    "regdb": "regdb",
    "llcm": "llcm/sampled",
    "market": "market1501",
}
OTHER_PERSONS = 1_000_003  # added to the seed of a second data set: it then shows nobody known


def share_of(world: str) -> float | None:
    """The share of modality-only cues that a world sets; None: it keeps the generator's.

    Args:
        world: ``cues``, ``no-cue`` or ``cue=SHARE``, a share in [0, 1].

    Raises:
        MixERValueError: for anything else.
    """
    if world in (CUES, NO_CUE):
        return None if world == CUES else 0.0
    found = _SHARE.fullmatch(world)
    if found is None:
        raise MixERValueError(
            f"worlds has {world!r}; expected {CUES}, {NO_CUE}, or cue=SHARE with a share in "
            "[0, 1], such as cue=0.5."
        )
    return float(found[1])


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """A data set: exactly one of ``synthetic`` and ``root``.

    Attributes:
        synthetic: generator settings; their seed is replaced by each run's seed.
        root: folder of a data set; to train on it needs both modalities, so not Market-1501's.
        layout: ``sysu``, ``regdb``, ``llcm`` or ``market``; None: SYSU-MM01's for generated images,
            else what the folder has.
    """

    synthetic: SyntheticConfig | None = None
    root: str | None = None
    layout: str | None = None

    def __post_init__(self) -> None:
        check_options(self)
        if (self.synthetic is None) == (self.root is None):
            raise MixERValueError(
                "Give either synthetic (generator settings) or root (a folder) of a data set."
            )
        if self.layout is not None:
            check_layout(self.layout)

    def find_layout(self) -> str:
        """The layout's name.

        Raises:
            MixERValueError: if it is not given and the folder has none of the four.
        """
        if self.layout is not None:
            return self.layout
        return "sysu" if self.root is None else detect_layout(self.root)

    def settings(self, world: str, seed: int) -> SyntheticConfig | None:
        """Generator settings of a world and seed; None if the images are not generated."""
        if self.synthetic is None:
            return None
        found = dataclasses.replace(self.synthetic, seed=seed)
        if (share := share_of(world)) is not None:
            return dataclasses.replace(found, visible_cue=share, infrared_cue=share)
        return found


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What one run of the benchmark trains and tests on.

    Attributes:
        train: training images, of both modalities.
        test: another data set to test on, with the same keys; generated persons are then others
            than those trained on. None: the test images of ``train``.
        split: ``test``, or ``val`` (SYSU-MM01's validation identities, with ``protocol: full``) to
            leave the test identities unread while choices are made.
        protocol: of the evaluation; ``regdb``: each seed on a split of its own, ``seed % 10 + 1``;
            ``regdb/3``: all seeds on split 3; None: what is usual for the data set that is tested
            on.
    """

    train: ImageSource
    test: ImageSource | None = None
    split: str = option("test", choices=("test", "val"))
    protocol: str | None = None

    def __post_init__(self) -> None:
        check_options(self, "data")
        if self.split == "val" and (self.test is not None or self.protocol != "full"):
            raise MixERValueError(
                "data.split is 'val', which has no protocol of its own: leave data.test out and "
                "set protocol: full."
            )

    def check(self) -> None:
        """Finds what does not go together, before anything is trained.

        Raises:
            MixERValueError: for visible images only to train on, or a protocol of another data set.
        """
        layout = self.train.find_layout()
        if layout == "market":
            raise MixERValueError(
                f"{LAYOUTS[layout].name} has visible images only: training needs both modalities. "
                "Train on another data set and give this one as data.test."
            )
        tested = self._tested().find_layout()
        if self.split == "val" and tested != "sysu":
            raise MixERValueError(
                f"{LAYOUTS[tested].name} has no validation identities; data.split 'val' needs "
                "SYSU-MM01's layout."
            )
        family = self.protocol_of(0).split("/")[0].removesuffix("1501")
        if family not in ("full", tested):
            raise MixERValueError(
                f"The protocol {self.protocol!r} is not one of {LAYOUTS[tested].name}, which is "
                f"tested on. Use {_PROTOCOLS[tested]!r}, 'full', or leave it out."
            )

    def protocol_of(self, seed: int) -> str:
        """Id of the protocol of a seed's evaluation."""
        name = self.protocol or _PROTOCOLS[self._tested().find_layout()]
        return f"regdb/{seed % len(REGDB_SPLITS) + 1}" if name == "regdb" else name

    def train_root(self, out: Path, world: str, seed: int) -> Path:
        """Folder of the training images."""
        return Path(self.train.root or out / "data" / f"{world}-seed{seed}")

    def test_root(self, out: Path, world: str, seed: int) -> Path:
        """Folder of the test images."""
        if self.test is None:
            return self.train_root(out, world, seed)
        return Path(self.test.root or out / "data" / f"{world}-seed{seed}-test")

    def write(self, out: Path, world: str, seed: int) -> None:
        """Writes what is generated, unless it is there.

        Raises:
            MixERValueError: if a folder holds something else.
            OSError: if it cannot be written.
        """
        wanted = [(self.train, self.train_root(out, world, seed), seed)]
        if self.test is not None:
            wanted.append((self.test, self.test_root(out, world, seed), seed + OTHER_PERSONS))
        for source, root, own_seed in wanted:
            if (settings := source.settings(world, own_seed)) is not None:
                write_layout(root, settings, source.find_layout())

    def read_train(self, out: Path, world: str, seed: int) -> ImageList:
        """Lists the training images; SYSU-MM01's own with those of validation, if not tested on.

        Raises:
            MixERValueError: if the folder lacks or contradicts something.
        """
        layout, own = self.train.find_layout(), self.train.root is not None
        split = "trainval" if layout == "sysu" and own and self.split != "val" else "train"
        return _read(self.train_root(out, world, seed), split, layout, self.trial_of(seed))

    def read_test(self, out: Path, world: str, seed: int) -> ImageList:
        """Lists the images that are tested on.

        Raises:
            MixERValueError: if the folder lacks or contradicts something.
        """
        layout = self._tested().find_layout()
        return _read(self.test_root(out, world, seed), self.split, layout, self.trial_of(seed))

    def _tested(self) -> ImageSource:
        return self.test or self.train

    def trial_of(self, seed: int) -> int:
        """RegDB's split."""
        given = (self.protocol or "").removeprefix("regdb/")
        return int(given) if given.isdigit() else seed % len(REGDB_SPLITS) + 1


def permutation_of(root: Path, protocol: str) -> Path | None:
    """SYSU-MM01's official draws, for the protocols that use them."""
    path = root / "exp" / "rand_perm_cam.mat"
    uses = protocol.startswith("sysu/") and not protocol.endswith("@ye")
    return path if uses and path.exists() else None


def _read(root: Path, split: str, layout: str, trial: int) -> ImageList:
    return read_images(root, split, layout=layout, trial=trial if layout == "regdb" else None)
