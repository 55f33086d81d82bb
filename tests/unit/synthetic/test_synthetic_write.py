"""Writing synthetic sets: reuse, refusal, interruption."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from mixer_plugin.data.synthetic import (
    STRENGTH,
    SyntheticConfig,
    chunks,
    plan,
    render,
    write,
    write_layout,
)
from mixer_plugin.errors import MixERValueError

SMALL = {"train_ids": 3, "val_ids": 2, "test_ids": 3, "height": 32, "width": 16}


def test_write_gives_the_released_layout(tmp_path: Path) -> None:
    config = SyntheticConfig(**SMALL)
    seen: list[tuple[int, int]] = []
    written = write_layout(
        tmp_path / "set", config, "sysu", workers=2, progress=lambda done, n: seen.append((done, n))
    )
    rows = plan(config)
    assert (written.images, written.reused) == (len(rows), False)
    assert seen[-1] == (len(rows), len(rows))
    files = sorted(path.relative_to(written.root) for path in written.root.rglob("*.jpg"))
    assert files == sorted(
        Path(f"cam{row['cam']}/{row['pid']:04d}/{row['number']:04d}.jpg") for row in rows
    )
    assert (written.root / "exp/test_id.txt").read_text().strip() == "6,7,8"
    assert (written.root / "exp/available_id.txt").read_text().strip() == "1,2,3,4,5,6,7,8"
    row = rows[40:41]
    stored = Image.open(
        written.root / f"cam{row['cam'][0]}/{row['pid'][0]:04d}/{row['number'][0]:04d}.jpg"
    )
    difference = np.asarray(stored).astype(int) - render(config, row)[0]
    assert np.abs(difference).mean() < 4  # JPEG at quality 95
    assert list(tmp_path.iterdir()) == [written.root]
    # As the public evaluators index it.
    draws = scipy.io.loadmat(written.root / "exp/rand_perm_cam.mat")["rand_perm_cam"]
    assert draws.shape == (6, 1)
    for cam, n_images in ((1, 2), (3, 4)):
        cell = draws[cam - 1][0].squeeze()
        assert sorted(cell[8 - 1][9][:n_images]) == list(range(1, n_images + 1))
        assert len({tuple(trial) for trial in cell[8 - 1]}) > 1


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(there: bool, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    if there:
        (tmp_path / "disk/set").mkdir()
    (tmp_path / "set").symlink_to("disk/set")
    write_layout(tmp_path / "set", SyntheticConfig(**SMALL), "sysu")
    assert (tmp_path / "set").is_symlink()
    assert (tmp_path / "disk/set/exp/test_id.txt").is_file()
    assert write_layout(tmp_path / "set", SyntheticConfig(**SMALL), "sysu").reused


def test_write_reuses_the_same_set_and_refuses_another(tmp_path: Path) -> None:
    config = SyntheticConfig(**SMALL, test_visible_per_camera=1)
    root = tmp_path / "set"
    root.mkdir()  # an empty folder is fine
    write_layout(root, config, "sysu")
    stamp = (root / "cam1/0001/0001.jpg").stat().st_mtime_ns
    assert write_layout(root, config, "sysu").reused
    assert (root / "cam1/0001/0001.jpg").stat().st_mtime_ns == stamp
    with pytest.raises(MixERValueError, match=r"differs in seed \(there 0, asked 9\)"):
        write_layout(root, SyntheticConfig(**SMALL, test_visible_per_camera=1, seed=9), "sysu")
    with pytest.raises(MixERValueError, match="differs in quality"):
        write_layout(root, config, "sysu", quality=80)
    (root / "synthetic.json").unlink()
    with pytest.raises(MixERValueError, match="not a synthetic data set"):
        write_layout(root, config, "sysu")
    with pytest.raises(MixERValueError, match="quality"):
        write_layout(tmp_path / "other", config, "sysu", quality=0)


def test_other_strengths_are_another_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SyntheticConfig(**SMALL)
    write_layout(tmp_path / "set", config, "sysu")
    monkeypatch.setitem(STRENGTH, "logo", 0.5)
    with pytest.raises(MixERValueError, match="strengths of the factors"):
        write_layout(tmp_path / "set", config, "sysu")


def test_a_second_writer_waits_and_finds_the_set_written(tmp_path: Path) -> None:
    config = SyntheticConfig(**SMALL)
    root = tmp_path / "new" / "set"
    second: list[bool] = []
    writer = threading.Thread(
        target=lambda: second.append(write_layout(root, config, "sysu").reused)
    )

    def start(done: int, total: int) -> None:
        if done == total:
            writer.start()
            writer.join(0.3)
            assert writer.is_alive()

    assert not write_layout(root, config, "sysu", progress=start).reused
    writer.join(60)
    assert second == [True]
    assert list(root.parent.iterdir()) == [root]


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Chunks of 20 images; gets the size of every one that is rendered."""
    sizes: list[int] = []

    def count(config: SyntheticConfig, rows: np.ndarray) -> np.ndarray:
        sizes.append(len(rows))
        return render(config, rows)

    monkeypatch.setattr(chunks, "render", count)
    monkeypatch.setattr(write, "_CHUNK_IMAGES", 20)
    return sizes


def _stop_after(images: int, error: BaseException) -> object:
    def progress(done: int, total: int) -> None:
        if done >= images:
            raise error

    return progress


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no space left on device")])
def test_an_interrupted_run_continues(
    error: BaseException, tmp_path: Path, rendered: list[int]
) -> None:
    config, root = SyntheticConfig(**SMALL), tmp_path / "set"
    aside = tmp_path / "set.partial"
    total = len(plan(config))
    with pytest.raises(type(error)):
        write_layout(root, config, "sysu", progress=_stop_after(40, error))
    assert [path.name for path in tmp_path.iterdir()] == [aside.name]
    with (aside / "finished.txt").open("a") as file:
        file.write("40 6")  # a line that was cut off counts for nothing
    (aside / "cam1/0001/0001.jpg").write_bytes(b"kept as it is")
    seen: list[int] = []
    written = write_layout(root, config, "sysu", progress=lambda done, _: seen.append(done))
    assert (written.reused, written.continued, written.images) == (False, 40, total)
    assert sum(rendered) == total
    assert seen[0] == 60
    assert (root / "cam1/0001/0001.jpg").read_bytes() == b"kept as it is"
    assert len(list(root.rglob("*.jpg"))) == total
    assert not (root / "finished.txt").exists()
    assert list(tmp_path.iterdir()) == [root]


def test_chunks_of_another_size_continue_as_well(
    tmp_path: Path, rendered: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = SyntheticConfig(**SMALL), tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        write_layout(root, config, "sysu", progress=_stop_after(40, KeyboardInterrupt()))
    monkeypatch.setattr(write, "_CHUNK_IMAGES", 30)
    write_layout(root, config, "sysu")
    # The images 30 to 59 were finished in part: again as a whole.
    assert sum(rendered) == len(plan(config)) + 10
    assert len(list(root.rglob("*.jpg"))) == len(plan(config))


def test_another_sets_leftover_is_refused(tmp_path: Path, rendered: list[int]) -> None:
    config, root = SyntheticConfig(**SMALL), tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        write_layout(root, config, "sysu", progress=_stop_after(20, KeyboardInterrupt()))
    with pytest.raises(MixERValueError, match=r"unfinished part .* seed \(there 0, asked 9\)"):
        write_layout(root, SyntheticConfig(**SMALL, seed=9), "sysu")
    (tmp_path / "set.partial/synthetic.json").unlink()
    with pytest.raises(MixERValueError, match=r"set\.partial is not empty and holds no readable"):
        write_layout(root, config, "sysu")
    assert rendered == [20]
