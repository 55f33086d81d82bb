"""Attaches MixER to a plain torchvision network and trains it for a few steps.

Needs the extra ``bench``, for torchvision.
"""

import torch
import torch.nn.functional as F
from torchvision.models import resnet18

from mixer_plugin import evaluate, extract_features, mixer_loss, wrap_with_mixer
from mixer_plugin.adapters import GenericAdapter

torch.manual_seed(0)
PERSONS, EACH = 8, 8  # images of a person, half of them infrared
ids = torch.arange(PERSONS).repeat_interleave(EACH)
modality = torch.arange(PERSONS * EACH) % 2
cams = 1 + 2 * modality + (torch.arange(PERSONS * EACH) % 4 > 1)
# A pattern for each person, another one for each modality, and noise: in place of your images.
person, side = torch.randn(PERSONS, 3, 64, 32), torch.randn(2, 3, 64, 32)
images = person[ids] + side[modality] + torch.randn(len(ids), 3, 64, 32)

model = resnet18(num_classes=PERSONS)
adapter = GenericAdapter("layer4", "avgpool")  # `mixer-plugin inspect` proposes this line
wrap_with_mixer(model, "e2e", adapter=adapter)  # before the optimizer is made
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

model.train()
for step in range(10):
    batch = torch.randperm(len(ids))[:24]
    loss = F.cross_entropy(model(images[batch]), ids[batch])
    loss = loss + mixer_loss(model, ids[batch], modality[batch])  # the one line of the loop
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.3f}")

loader = [(images, ids, cams, modality)]
print(evaluate(extract_features(model, loader), "full", settings=("cross", "mix")).to_markdown())
