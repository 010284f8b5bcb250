"""What training makes of the machine it runs on."""

import torch

from handwriting.batches import Feeding

MOST_PROCESSES = 12  # beside an H200 they change over 1,800 lines/s


def fast_bfloat16(device: torch.device) -> bool:
    """Says whether bf16 arithmetic is in the hardware; emulated it would be slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def feeding(device: torch.device) -> Feeding:
    """Returns how to make batches for a device: a GPU leaves the cores to that, and one core feeds it."""
    if device.type == "cpu":
        return Feeding()
    return Feeding(processes=min(MOST_PROCESSES, torch.get_num_threads() - 1), threads=3, ahead=6, multiple=128,
                   pinned=True, reading=128)
