"""AdaMerging: ratios by gradient on data of the very skills that are to be kept (paper, E.4).

Yang et al. 2023 minimise the entropy on unlabelled items; as in the paper's comparison, it is the
likelihood of labelled items here, at a held mean ratio. HMA does without these items.
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
