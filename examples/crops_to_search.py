"""From a folder of crops to a search: extract features, index them, ask for a person.

Needs the extras ``demo`` and ``faiss``.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mixer_plugin import FeatureSet, wrap_with_mixer
from mixer_plugin.baselines import create_baseline
from mixer_plugin.data import read_own_images
from mixer_plugin.extraction import Reading, extract_to_file
from mixer_plugin.search import MixedModalIndex

rng = np.random.default_rng(0)
for person in range(5):  # in place of your crops: FOLDER/MODALITY/CAMERA/PERSON/IMAGE
    colours = rng.integers(0, 256, (4, 2, 3))
    for side, camera in (("visible", "cam1"), ("infrared", "cam2")):
        folder = Path("crops", side, camera, f"{person:04d}")
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(3):
            pixels = np.kron(colours, np.ones((16, 16, 1))) + rng.normal(0, 20, (64, 32, 3))
            if side == "infrared":
                pixels = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / f"{number}.png")

torch.manual_seed(0)
model = create_baseline("saai-base", num_classes=5, trunk="small", image_size=(64, 32))
# Yours is trained: model = restore(build, "best.pth", "f"), of mixer_plugin.attach.
wrap_with_mixer(model, "f")

images = read_own_images("crops").images
extract_to_file(model, images, "crops.npz", reading=Reading(size=(64, 32)))
features = FeatureSet.load("crops.npz")

index = MixedModalIndex.build(features, rule="mixer")
query = features[torch.tensor([20])]  # one infrared image
hits = index.search(query, 5)
print(f"query: {query.paths[0]}")
for score, person, path in zip(hits.scores[0], hits.ids[0], hits.paths[0], strict=True):
    print(f"{score:.3f}  person {int(person)}  {path}")
