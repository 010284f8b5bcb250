"""What training makes of the machine it runs on."""

import torch


def fast_bfloat16(device: torch.device) -> bool:
    """Says whether bf16 arithmetic is in the hardware; emulated it would be slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
