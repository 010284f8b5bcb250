"""What training makes of the machine it runs on."""

import torch

from handwriting.batches import Feeding

MOST_PROCESSES = 12  # beside an H200 they change over 1,800 lines/s


def fast_bfloat16(device: torch.device) -> bool:
    """Says whether a network learns faster in bf16 than in float32.

    Having its instructions is not enough: those of Intel's AVX-512 multiply no faster than float32's. On a Xeon that
    hides its AMX the network learns 44 lines/s in float32 and 31 in bf16.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    if has.get("cpu_name", "").startswith("Intel"):
        return has.get("amx_bf16", False)
    return has.get("avx512_bf16", False)


def feeding(device: torch.device) -> Feeding:
    """Returns how to make batches for a device: a GPU leaves the cores to that, and one core feeds it."""
    if device.type == "cpu":
        return Feeding()
    return Feeding(processes=min(MOST_PROCESSES, torch.get_num_threads() - 1), threads=3, ahead=6, multiple=128,
                   pinned=True, reading=128)
