"""AdaMerging: ratios by gradient on data of the very skills that are to be kept (paper, E.4).

Yang et al. 2023 minimise the entropy of the predictions on unlabelled test items of the tasks, one
ratio per layer. Here, as in the paper's comparison, it is the likelihood of labelled items of one
skill. Like HMA it holds the mean ratio, so that the two compare at one alpha; HMA does without
these items.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from alignment_tax.merge.hma import Example, Found, HmaConfig, ReplyLikelihood, learn_ratios
from alignment_tax.merge.parts import Mixture


def adamerging(
    mixture: Mixture, model: nn.Module, labelled: Sequence[Example], config: HmaConfig
) -> Found:
    """Find the ratios under which the answers of labelled items are most likely."""
    return learn_ratios(mixture, ReplyLikelihood(model, labelled), config)
