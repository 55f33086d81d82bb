"""A loop of the script family (DDAG, DEEN, SGEIL): labels stay in it, MixER takes one line."""

import torch
import torch.nn.functional as F

from mixer_plugin import mixer_loss, wrap_with_mixer
from mixer_plugin.baselines import create_baseline
from mixer_plugin.training import best_so_far, evaluate_in_training, keep_best

torch.manual_seed(0)
PERSONS, EACH, SIZE = 6, 6, (64, 32)
person, side = torch.randn(PERSONS, 3, *SIZE), torch.randn(2, 3, *SIZE)


def photographs(labels, modality):
    """A pattern of the person, one of the modality, and noise: in place of your images."""
    return person[labels] + side[modality] + torch.randn(len(labels), 3, *SIZE)


gallery_ids = torch.arange(PERSONS).repeat_interleave(EACH)
gallery_modality = torch.arange(len(gallery_ids)) % 2
gallery = photographs(gallery_ids, gallery_modality)
loader = [(gallery, gallery_ids, 1 + 2 * gallery_modality, gallery_modality)]

net = create_baseline("ddag", num_classes=PERSONS, trunk="small")  # your repository's network
wrap_with_mixer(net, "f")  # "f": the network trains as without; "e2e": MixER trains it, too
optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

best = None
for epoch in range(4):
    net.train()
    for _ in range(4):
        labels = torch.arange(PERSONS).repeat_interleave(2)
        visible, infrared = (photographs(labels, torch.full_like(labels, m)) for m in (0, 1))
        labels = torch.cat([labels, labels])  # rows: visible, then infrared
        outputs = net(visible, infrared, torch.ones(len(labels), len(labels)))
        loss = F.cross_entropy(outputs[1], labels)
        loss = loss + mixer_loss(net, labels)  # the one line of the loop
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    figures = evaluate_in_training(net, loader, rules=("mixer", "erased"), settings=("mix",))
    best = keep_best(net, figures, "best.pth", best=best, epoch=epoch)
    print(f"epoch {epoch}: loss {loss.item():.3f}, mAP in Mix {figures['mix/mAP']:.3f}")
print(f"best.pth: mAP {best_so_far('best.pth'):.3f}")
