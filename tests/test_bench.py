"""The comparison with the tutorial runs, and its reference is the tutorial's network."""

import torch

from handwriting.hyperparameters import ModelConfig
from handwriting.image import ImageConfig
from pipeline import reference
from pipeline.bench import bench, table
from pipeline.bench_serving import bench_serving
from pipeline.bench_serving import table as serving_table


def test_the_reference_has_the_tutorials_layers_and_steps():
    network = reference.ReferenceNetwork()
    assert network(torch.zeros(2, 3, 64, 400)).shape == (99, 2, 210)
    assert [type(layer).__name__ for layer in network.features].count("Conv2d") == 7


def test_the_reference_merges_repeats_and_drops_blanks():
    best = [0, 3, 3, 0, 3, 4, 2]
    log_probs = torch.nn.functional.one_hot(torch.tensor(best), 210).float()[:, None]
    assert reference.decode(log_probs) == ["aaá"]
    assert reference._accuracy("abcd", "abxd") == 0.75


def test_a_bench_measures_each_way_of_training_on_the_same_lines(sample_folder):
    result = bench(sample_folder, lines=12, repeat=2, batch=8, image=ImageConfig(height=32, squeeze=0.75),
                   model=ModelConfig(channels=4, hidden=16))
    assert set(result["rows"]) == {"reference", "ours", "network", "repeated"}
    for row in result["rows"].values():
        assert row["lines_per_second"] > 0 and 50 < row["memory"] < 10_000
    assert result["speedup"] > 0 and "times the tutorial's speed" in table(result)


def test_a_bench_of_serving_measures_each_server_with_the_same_lines(tiny_bundle, sample_folder):
    result = bench_serving(str(tiny_bundle), sample_folder, seconds=0.5, clients=(1, 4), requests=40)
    assert set(result["rows"]) == {"reference", "ours"} and result["bare"] > 0 and result["session"] > 0
    for loads in result["rows"].values():
        assert [load["clients"] for load in loads] == [1, 4]
        assert all(load["per_second"] > 0 and load["p50"] <= load["p99"] for load in loads)
    assert result["ready"] > 0 and list(result["memory"]) == [0, *range(4, 41, 4)]
    assert all(50 < size < 1000 for size in result["memory"].values())
    assert "times the tutorial's readings a second" in serving_table(result)
