"""What the trainer does of its own for several processes; they themselves are in tests/contract."""

import os
import signal

import pytest
import torch
from torch import nn

from mixer_plugin.benchmarks.experiment.cells import plan_jobs
from mixer_plugin.benchmarks.experiment.config import config_from_dict
from mixer_plugin.benchmarks.experiment.workers import check_cells
from mixer_plugin.benchmarks.table3 import run
from mixer_plugin.benchmarks.training import options as options_module
from mixer_plugin.benchmarks.training.checkpoint import steps_in
from mixer_plugin.benchmarks.training.ddp import agreed, means, reached, spanning, touching
from mixer_plugin.benchmarks.training.options import TrainingOptions
from mixer_plugin.benchmarks.training.signals import noted_signals
from mixer_plugin.benchmarks.training.steps import seed_step
from mixer_plugin.distributed import processes
from mixer_plugin.distributed.processes import (
    LostProcessError,
    lost_before,
    lost_named,
    main_process_first,
    on_all_ranks,
    on_main_process,
    process_group,
    rank,
    restarted,
    waited,
)
from mixer_plugin.errors import MixERError


def test_random_numbers_of_a_step_differ_between_processes_and_are_those_of_one_in_the_first():
    seed_step(3, 5)
    assert torch.initial_seed() == 3 * 1_000_003 + 5
    alone = torch.rand(4)
    drawn = []
    for number in range(3):
        seed_step(3, 5, number)
        drawn.append(torch.rand(4))
    assert torch.equal(drawn[0], alone)
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == 3


def test_what_a_backward_reaches_is_known_before_it():
    shared, other, idle = nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(3, 3)
    idle.bias.requires_grad_(False)
    parameters = [p for m in (shared, other, idle) for p in m.parameters() if p.requires_grad]
    x = torch.randn(4, 3)
    loss = other(shared(x).relu()).sum() + shared(shared(x)).square().mean()
    found = reached(loss, parameters)
    whole = touching(loss, parameters, found)
    assert torch.equal(whole, loss)
    loss.backward(retain_graph=True)
    assert found.tolist() == [p.grad is not None for p in parameters] == [True] * 4 + [False]
    expected = [p.grad.clone() for p in parameters[:4]]
    for parameter in parameters:
        parameter.grad = None
    whole.backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, expected, strict=False))
    assert torch.equal(parameters[4].grad, torch.zeros_like(parameters[4]))
    assert touching(loss, parameters[:4], found[:4]) is loss


def test_alone_there_is_nobody_to_agree_with():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with spanning(net, list(net[0].parameters()), gather=True):
        assert type(net[1]) is nn.BatchNorm1d
        assert net[1].weight.requires_grad
        assert not hasattr(net, "gather")
    assert agreed(None) is None
    assert agreed(15) == 15
    assert means({"loss": 2.0}) == {"loss": 2.0}
    assert rank() == 0
    for step in (on_main_process, on_all_ranks, main_process_first):
        assert step("table3", lambda: 3) == 3
        with pytest.raises(KeyError):
            step("table3", {}.popitem)


def test_signals_that_follow_the_first_are_ignored_where_torchrun_sends_them_too():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with noted_signals(patient=True) as came:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            assert came() == signal.SIGTERM
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    with noted_signals(patient=True):
        pass
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_lost_process_is_told_from_a_mistake():
    with pytest.raises(RuntimeError, match="sizes"), lost_named(waited):
        raise RuntimeError("sizes of tensors")
    error = LostProcessError("gone")
    assert lost_before(error) is error
    assert lost_before(ValueError()) is None
    stop = KeyboardInterrupt()
    stop.__context__ = error  # torchrun's signal comes to what is ending
    assert lost_before(stop) is error
    assert waited(RuntimeError("[pair.cc:5] Connection closed by peer. Check the logs\nmore")) == (
        "Process 0 of 1 waited for the others, and one has ended or did not come ([pair.cc:5] "
        "Connection closed by peer). Look for the first error among the other processes."
    )


def test_a_restart_is_read_from_torchrun(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert not restarted()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert restarted()


@pytest.mark.parametrize(
    ("device", "environment", "words"),
    [
        (
            "cpu",
            {
                "GROUP_WORLD_SIZE": "2",
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "TORCHELASTIC_MAX_RESTARTS": "3",
            },
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1",
        ),
        ("cuda", {"LOCAL_WORLD_SIZE": "64"}, "64 processes were started on a machine with"),
        ("cpu", {"MASTER_ADDR": ""}, "2 processes cannot join .*Start them with torchrun"),
    ],
)
def test_processes_that_cannot_work_together_do_not_join(monkeypatch, device, environment, words):
    for name in [name for name in os.environ if name.startswith(("TORCHELASTIC", "GROUP"))]:
        monkeypatch.delenv(name)
    for name, value in {"WORLD_SIZE": "2", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MixERError, match=words), process_group(device):
        pass


def configuration(**changes):
    values = {
        "name": "t",
        "data": {"synthetic": {}},
        "image_size": [32, 16],
        "baselines": {"saai-base": {"trunk": "small"}},
        "seeds": [0],
        "recipe": {"p": 6},
    }
    return config_from_dict({**values, **changes})


@pytest.mark.parametrize(
    ("processes", "changes", "words"),
    [
        (4, {}, "4 processes cannot share a batch of 6 identities"),
        (2, {"training": {"accumulate": 2}}, "each of 2 processes has 3 identities"),
        (2, {"training": {"precision": "fp16"}}, "loss scales of their own"),
        (5, {"recipe": "public"}, "5 processes cannot share a batch of 8 identities"),
        (2, {"recipe": "public", "baselines": {"mpanet": {"trunk": "small"}}}, "loss scales"),
    ],
)
def test_what_processes_cannot_do_is_found_before_a_table_claims_its_folder(
    monkeypatch, tmp_path, processes, changes, words
):
    if "baselines" not in changes and changes.get("recipe") == "public":
        changes = {**changes, "baselines": {"ddag": {"trunk": "small"}}}
    monkeypatch.setattr(options_module, "count_processes", lambda: processes)
    with pytest.raises(MixERError, match=words):
        run(configuration(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_heads_on_a_finished_baseline_have_one_scale(monkeypatch):
    monkeypatch.setattr(options_module, "count_processes", lambda: 2)
    after = {"heads": {"when": "after", "recipe": {}}, "training": {"precision": "fp16"}}
    config = configuration(**after)
    jobs = [job for job in plan_jobs(config) if "f" in [cell.name for cell in job.cells]]
    check_cells([(job, cell) for job in jobs for cell in job.cells])


def test_the_steps_of_a_checkpoint_that_is_none(tmp_path):
    path = tmp_path / "c.pt"
    assert steps_in(path) is None
    path.write_bytes(b"half")
    assert steps_in(path) is None
    torch.save({"step": 7}, path)
    assert steps_in(path) == 7


def test_gather_is_true_or_false():
    assert TrainingOptions().numbers()["gather"] is True
    with pytest.raises(MixERError, match="true or false"):
        TrainingOptions(gather=1)


def test_processes_that_end_together_leave_their_group_and_others_do_not(monkeypatch):
    left = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes.dist, "rendezvous", lambda *_, **__: iter([(None, 0, 2)]))
    monkeypatch.setattr(processes.dist, "PrefixStore", lambda *_: None)
    monkeypatch.setattr(processes.dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(processes.dist, "destroy_process_group", lambda: left.append(1))
    monkeypatch.setattr(processes, "count_processes", lambda: 2)
    monkeypatch.setattr(processes, "rank", lambda: 0)

    def tell(told, status):
        told[:] = [status, None]

    monkeypatch.setattr(processes.dist, "all_gather_object", tell)
    monkeypatch.setattr(processes.Share, "any", lambda self, flag: flag)

    def fail():
        raise OSError("gone")

    with pytest.raises(SystemExit) as ended, process_group():
        on_all_ranks("evaluate", fail)
    assert ended.value.code == 2
    assert left == [1]
    # Alone, a process must not: only its end tells the others, who may be waiting.
    for error in (SystemExit(3), KeyboardInterrupt()):
        with pytest.raises(type(error)), process_group():
            raise error
    assert left == [1]
    with process_group():
        pass
    assert left == [1, 1]
