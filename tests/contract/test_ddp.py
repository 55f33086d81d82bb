"""DistributedDataParallel with real processes: 1 and 2 ranks, and a batch of one modality."""

import pytest
import torch

from mixer_plugin import wrap_with_mixer
from tests.contract.ddp_worker import batch_of
from tests.contract.processes import run
from tests.contract.toys import TOYS

pytestmark = pytest.mark.slow  # test_gathering.py has two processes in `make test`
WORKER = "tests.contract.ddp_worker"


def train_alone(name, mode, batches):
    """The same steps in this process; the gradient is the mean over the ranks' batches."""
    toy = TOYS[name]
    torch.manual_seed(0)
    model = wrap_with_mixer(toy.build(), mode, adapter=toy.adapter(), seed=0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for batch in batches:
        optimizer.zero_grad()
        toy.step_loss(model, batch).backward()
        optimizer.step()
    return {n: p.detach() for n, p in model.named_parameters()}


BOTH_MODES = [(name, mode) for name in ("saai", "generic") for mode in ("e2e", "f")]
END_TO_END = [(name, "e2e") for name in ("ddag", "deen", "sgeil", "mpanet", "idkl")]


ONE = BOTH_MODES + END_TO_END


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    cases = [f"{name}:{mode}:mixed" for name, mode in ONE]
    return run(WORKER, 1, tmp_path_factory.mktemp("one"), *cases)[0][0]


@pytest.mark.parametrize(("name", "mode"), ONE)
def test_one_process_equals_none(one, name, mode):
    rank = one[f"{name}:{mode}:mixed"]
    expected = train_alone(
        name, mode, [batch_of(TOYS[name], "mixed", 0, step) for step in range(3)]
    )
    for key, value in expected.items():
        torch.testing.assert_close(rank["weights"][key], value, msg=key)


# In the codebases' own loops a batch has both modalities; SAAI's and a generic one need not.
TWO = [(*pair, case) for pair in BOTH_MODES for case in ("mixed", "one modality")]
TWO += [
    (name, "e2e", "one modality")
    for name in ("saai/low-rank", "saai/deep", "saai/shared", "saai/cross", "generic/deep-shared")
]
TWO += [(f"{name}/deep", "f", "mixed") for name in ("ddag", "deen", "sgeil", "mpanet", "idkl")]
TWO += [(*pair, "mixed") for pair in END_TO_END]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return run(WORKER, 2, tmp_path_factory.mktemp("two"), *map(":".join, TWO))[0]


@pytest.mark.parametrize(("name", "mode", "case"), TWO)
def test_two_processes_agree(two, name, mode, case):
    first, second = (rank[f"{name}:{mode}:{case}"] for rank in two)
    assert list(first["gradients"]) == list(second["gradients"])
    assert sum(n.startswith("mixer.") for n in first["gradients"]) > 5
    for key, value in first["weights"].items():
        assert torch.equal(value, second["weights"][key]), key
    assert all(torch.isfinite(g).all() for g in first["gradients"].values())
