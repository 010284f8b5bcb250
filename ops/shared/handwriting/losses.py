"""What training minimises, one number a batch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from handwriting.alphabet import BLANK
from handwriting.batches import Batch
from handwriting.ctc import STEP

SPREAD = 1.0  # flat start: characters that a letter may be off its place
BLANKS = 0.5  # flat start: share of blank in each step


def ctc_losses(heads_BTK: Sequence[Tensor], batch: Batch) -> list[Tensor]:
    """Returns each head's mean over lines of the CTC loss a character, each over the line's own steps without padding.

    All heads in one call: PyTorch's CTC waits for a GPU several times.
    """
    count, device = len(heads_BTK), heads_BTK[0].device
    losses = nn.functional.ctc_loss(
        torch.cat(list(heads_BTK)).transpose(0, 1), batch.targets.to(device, non_blocking=True).repeat(count),
        batch.steps.repeat(count), batch.lengths.repeat(count), blank=BLANK, reduction="none", zero_infinity=True)
    characters = batch.lengths.to(device, non_blocking=True).clamp(min=1)
    return [part.div(characters).mean() for part in losses.chunk(count)]


def flat_loss(log_probs_BTK: Tensor, batch: Batch) -> Tensor:
    """Returns the mean over lines of the cross-entropy a step with the text spread evenly over the ink.

    So speech recognisers have long been started ("flat start"; Young et al., The HTK Book, section 8.3). CTC alone has
    to find out by chance where letters stand, which takes it one to five epochs, more or less by seed.
    """
    losses = []
    inked_BW = batch.images.amax(dim=(1, 2)) > 0.5
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
