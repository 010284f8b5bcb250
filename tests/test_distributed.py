"""Several processes that train together: shares, agreement, and a run that reads as well as that of one process."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from torch import distributed as torch_distributed
from torch.distributed.elastic.multiprocessing.errors import record

from handwriting import runs
from handwriting.distributed import Group, launch, processes, several
from handwriting.errors import DataError
from handwriting.hyperparameters import ModelConfig, TrainConfig
from handwriting.store import open_store
from pipeline.ports import free_port

SMALL = ModelConfig(channels=8, columns=32, hidden=16, layers=1, dropout=0.0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_are_all_items_and_equal_shares_are_as_long_as_each_other(count):
    items = list(range(10))
    shares = [Group(rank, count).share(items) for rank in range(count)]
    assert sorted(sum(shares, [])) == items
    equal = [Group(rank, count).equal_share(items) for rank in range(count)]
    assert len({len(share) for share in equal}) == 1 and set(sum(equal, [])) == set(items)


@record
def check_agreement(folder: str) -> None:
    """Runs in each process."""
    group = Group.join()
    assert group.gather([group.rank]) == [0, 1] and group.agree(group.rank + 5) == 5
    open_store(folder).write(f"{group.rank}", str(torch_distributed.get_world_size()).encode())
    group.leave()


@record
def fail_in_the_second() -> None:
    """Runs in each process."""
    if Group.join().leads:
        torch_distributed.barrier()
    raise DataError("the loss is nan in epoch 3; lower learning_rate")


def test_processes_find_each_other_and_agree(tmp_path):
    launch(2, check_agreement, str(tmp_path))
    assert [(tmp_path / name).read_text() for name in ("0", "1")] == ["2", "2"]


def test_an_error_in_one_process_ends_all_and_is_told():
    with pytest.raises(DataError, match="(?s)process 1 of 2 that train together failed: .*lower learning_rate"):
        launch(2, fail_in_the_second)


def test_the_launcher_of_a_node_says_how_many_processes(monkeypatch):
    assert processes() >= 1 and not several(1) and several(2)
    monkeypatch.setenv("PET_NPROC_PER_NODE", "4")
    monkeypatch.setenv("PET_NNODES", "2")
    assert processes() == 4 and several(1)


@pytest.mark.slow
def test_two_nodes_train_one_model(small_dataset, tmp_path):
    """As Kubeflow Trainer starts them, but both on this machine."""
    command = [sys.executable, "-m", "pipeline", "train", "--dataset", small_dataset, "--out", str(tmp_path / "models"),
               "--epochs", "2", "--hidden", "16", "--layers", "1"]
    together = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(free_port())}
    nodes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={
        **os.environ, **together, "PET_NODE_RANK": str(rank), "PYTHONPATH": str(ROOT / "ops" / "shared")})
        for rank in (0, 1)]
    outputs = [node.communicate(timeout=300) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    first, second = (json.loads(output.splitlines()[-1]) for output, _ in outputs)
    assert first["model"] == second["model"] and first["epochs"] == 2
    assert sum(" epoch=" in line for output, _ in outputs for line in output.splitlines()) == 2  # the first one's


@pytest.mark.slow
def test_two_processes_learn_what_one_does_and_go_on_from_its_checkpoint(small_dataset, tmp_path, capfd):
    config = TrainConfig(epochs=3, augmentation=0.0, batch=8)
    found = {}
    for count in (1, 2):
        told = []
        found[count] = runs.train(
            small_dataset, str(tmp_path / f"models{count}"), str(tmp_path / f"runs{count}"), SMALL, config,
            lambda number, metrics: told.append(number), processes=count)
        assert told == [1, 2, 3] and found[count].trained
    assert capfd.readouterr().out.count(" epoch=3 ") == 2  # the second process prints nothing
    assert found[2].cer == pytest.approx(found[1].cer, abs=0.1)
    assert found[2].epochs[-1]["train_loss"] == pytest.approx(found[1].epochs[-1]["train_loss"], rel=0.2)
    again = runs.train(small_dataset, str(tmp_path / "models2"), str(tmp_path / "runs2"), SMALL, config, processes=2)
    assert not again.trained and again.model == found[2].model
