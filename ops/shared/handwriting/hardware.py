"""What training makes of the machine it runs on."""

import ctypes

import torch


def fast_bfloat16(device: torch.device) -> bool:
    """Says whether bf16 arithmetic is in the hardware; emulated it would be slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks: returning each batch's to the system and faulting it in again costs a third.

    The same as the variables MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_; elsewhere than on glibc nothing happens.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
