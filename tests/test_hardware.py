"""The precision that a processor learns fastest in."""

import platform

import pytest
import torch

from handwriting.hardware import fast_bfloat16

PROCESSORS = {
    "an EPYC with AVX-512 bf16": ({"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}, True),
    "an EPYC without it": ({"cpu_name": "AMD EPYC", "avx512_bf16": False, "amx_bf16": False}, False),
    "a Xeon with AMX": ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, True),
    "a Xeon that hides its AMX": ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, False),
    "one of another architecture": ({"architecture": "aarch64", "bf16": True}, False)}


@pytest.mark.parametrize("capabilities, expected", PROCESSORS.values(), ids=PROCESSORS)
def test_bf16_is_taken_where_the_processor_is_faster_in_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert fast_bfloat16(torch.device("cpu")) is expected


def test_this_processor_reports_what_the_choice_asks_for():
    """PyTorch may rename what it reports: then no machine would learn in bf16, only slowly."""
    if platform.machine() != "x86_64":
        pytest.skip("not an x86 processor")
    assert {"cpu_name", "amx_bf16", "avx512_bf16"} <= torch.cpu.get_capabilities().keys()
