"""The comparison of transfers moves every picture both ways, against a real SeaweedFS."""

import pytest

from pipeline.bench_transfers import bench_transfers, table


@pytest.mark.servers
def test_each_way_is_measured_on_the_same_pictures(sample_folder, monkeypatch):
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "")  # put back afterwards: the bench sets its own
    result = bench_transfers(sample_folder, most=40, latency=0.001)
    assert result["pictures"] == 40 and set(result["rows"]) == {"upload", "download", "train", "pack", "again"}
    assert all(row["ours"] > 0 for row in result["rows"].values())
    assert all(result["rows"][name]["one_by_one"] > 0 for name in ("upload", "download", "train"))
    assert table(result).startswith("| 40 pictures, a bucket 1 ms away | one by one, s | ours, s | times |")
