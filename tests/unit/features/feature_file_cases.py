"""Sound feature files to read, and to damage."""

from __future__ import annotations

import numpy as np

from tests.unit.features.test_features import make


def arrays(**changes):
    """The arrays of a sound .npz, some of them changed, None: left out."""
    plain = make()
    content = {name: getattr(plain, name).numpy() for name in ("erased", "related", "ids", "cams")}
    content |= {"modality": plain.modality.numpy(), "paths": np.asarray(plain.paths)}
    return {name: value for name, value in (content | changes).items() if value is not None}


ROWS = """id,camera,modality,path
0,1,0,cam1/0001/0000.jpg
0,2,1,cam1/0001/0001.jpg
1,3,0,cam1/0001/0002.jpg
1,1,1,cam1/0001/0003.jpg
2,2,0,cam1/0001/0004.jpg
2,3,1,cam1/0001/0005.jpg
"""


def write_labels(folder, text=ROWS):
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def write_arrays(folder, dtype=np.float32):
    plain = make()
    np.save(folder / "erased.npy", plain.erased.numpy().astype(dtype))
    np.save(folder / "related.npy", plain.related.numpy().astype(dtype))
    return folder / "erased.npy", folder / "related.npy"
