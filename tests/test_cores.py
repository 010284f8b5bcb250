"""Cores are counted as a pod may use them."""

import pytest

from handwriting.cores import cores


@pytest.mark.parametrize("limits, found", [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None)])
def test_the_cores_of_a_pod_are_its_share(tmp_path, limits, found):
    (tmp_path / "cpu.max").write_text(limits)
    assert cores(tmp_path / "cpu.max") == (found or cores(tmp_path / "nothing"))
