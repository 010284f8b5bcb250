"""What training minimises, one number a batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from handwriting.alphabet import BLANK
from handwriting.batches import Batch
from handwriting.ctc import STEP
from handwriting.forward_backward import MOST, forward_backward
from handwriting.image import WHITE

SPREAD = 1.0  # flat start: characters that a letter may be off its place
BLANKS = 0.5  # flat start: share of blank in each step


def ctc_losses(heads_BTK: Sequence[Tensor], batch: Batch) -> list[Tensor]:
    """Returns each head's mean over lines of the CTC loss a character, each over the line's own steps without padding.

    PyTorch's own CTC waits several times for a GPU, which a CUDA graph cannot. Where the batch's labels lie on the GPU,
    cuDNN computes it; `targets` may then be longer than the sum of `lengths`, and each line has 1 to 255 characters. On
    a CPU it takes ten times as long as `forward_backward`, and remains for what that cannot do.
    """
    count, device = len(heads_BTK), heads_BTK[0].device
    log_probs_BTK = torch.cat(list(heads_BTK))  # all heads in one call
    steps, lengths = batch.steps.repeat(count), batch.lengths.repeat(count)
    if batch.lengths.is_cuda:
        places = torch.arange(count * len(batch.targets), device=device) % batch.lengths.sum()
        losses = _CuDNN.apply(log_probs_BTK.transpose(0, 1), batch.targets[places].int(), steps.int(), lengths.int())
    else:
        losses = _of_lines(log_probs_BTK, batch.targets.to(device, non_blocking=True).repeat(count), steps, lengths)
    characters = batch.lengths.to(device, non_blocking=True).clamp(min=1)
    return [part.div(characters).mean() for part in losses.chunk(count)]


def _of_lines(log_probs_BTK: Tensor, targets: Tensor, steps: Tensor, lengths: Tensor) -> Tensor:
    """Returns the CTC loss of each line: by `forward_backward` where it can be trusted with all of them."""
    if log_probs_BTK.device.type == "cpu":
        losses = _Scaled.apply(log_probs_BTK, targets, steps, lengths)
        if (losses <= MOST).all():
            return losses
    return nn.functional.ctc_loss(log_probs_BTK.transpose(0, 1), targets, steps, lengths, blank=BLANK, reduction="none",
                                  zero_infinity=True)


class _Scaled(torch.autograd.Function):
    """CTC by `forward_backward`."""

    @staticmethod
    def forward(ctx: Any, log_probs_BTK: Tensor, targets: Tensor, steps: Tensor, lengths: Tensor) -> Tensor:
        losses, gradient_BTK = forward_backward(log_probs_BTK.numpy(), targets.numpy(), steps.numpy(), lengths.numpy())
        ctx.save_for_backward(torch.from_numpy(gradient_BTK))
        return torch.from_numpy(losses).to(log_probs_BTK.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * gradients[0][:, None, None], None, None, None


class _CuDNN(torch.autograd.Function):
    """CTC by cuDNN; PyTorch's ctc_loss keeps it from CUDA graphs of over 255 time steps, where it means characters."""

    @staticmethod
    def forward(ctx: Any, log_probs_TBK: Tensor, targets: Tensor, steps: Tensor, lengths: Tensor) -> Tensor:
        # It writes the gradient in the order of its input, whatever the order that PyTorch then takes it for.
        losses, gradient_TBK = torch.ops.aten._cudnn_ctc_loss.Tensor(
            log_probs_TBK.contiguous(), targets, steps, lengths, BLANK, deterministic=True, zero_infinity=True)
        padding_TB = torch.arange(len(log_probs_TBK), device=steps.device)[:, None] >= steps
        ctx.save_for_backward(gradient_TBK.masked_fill(padding_TB[:, :, None], 0.0))  # where cuDNN writes nothing
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * gradients[0][None, :, None], None, None, None


def flat_loss(log_probs_BTK: Tensor, batch: Batch) -> Tensor:
    """Returns the mean over lines of the cross-entropy a step with the text spread evenly over the ink.

    So speech recognisers have long been started ("flat start"; Young et al., The HTK Book, section 8.3). CTC alone has
    to find out by chance where letters stand, which takes it one to five epochs, more or less by seed.
    """
    losses = []
    inked_BW = batch.images.amin(dim=(1, 2)) <= WHITE // 2
    for log_probs_TK, inked_W, steps, ids in zip(log_probs_BTK, inked_BW, batch.steps.tolist(),
                                                 batch.targets.split(batch.lengths.tolist())):
        columns = inked_W.nonzero()
        first, last = (columns[0].item() // STEP, columns[-1].item() // STEP + 1) if len(columns) else (0, steps)
        places_T = (torch.arange(steps) + 0.5 - first) * (len(ids) / (last - first))
        offsets_TL = places_T[:, None] - (torch.arange(len(ids)) + 0.5)
        shares_TL = (-offsets_TL.square() / (2 * SPREAD**2)).softmax(dim=1).to(log_probs_TK.device)
        on_letters = (shares_TL * log_probs_TK[:steps, ids.to(log_probs_TK.device)]).sum(dim=1)
        losses.append(-((1 - BLANKS) * on_letters + BLANKS * log_probs_TK[:steps, BLANK]).mean())
    return torch.stack(losses).mean()
