"""HMA as the paper's released code does it, its faults each behind a switch: `hma_released`."""

from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from alignment_tax.merge import hma
from alignment_tax.merge.hma import Found, HmaConfig, Objective
from alignment_tax.merge.layout import kind_of
from alignment_tax.merge.parts import Mixture
from alignment_tax.train.loop import check_finite


class Faults(NamedTuple):
    """What differs from HMA as it is meant; all off by default."""

    #: The numerator of Eq. 11 is a copy of the scores from before training (it passes gradients
    #: on); only the denominator follows: all blocks share one ratio in training, its mean drifts.
    frozen_numerator: bool = False
    #: A block's score enters the optimiser once per linear layer: a step moves it so many times.
    multiplied_learning_rate: bool = False
    #: alpha, and the ratios, are weights of theta_0 instead of theta.
    alpha_of_theta_0: bool = False
    #: Embeddings and norms are those of theta_0, whatever alpha.
    embeddings_of_theta_0: bool = False
    #: The ratios are rounded to bfloat16 (8 bits of mantissa).
    bf16_ratios: bool = False


LEFT = {"embeddings": 0.0, "norms": 0.0}  # at theta_0, whatever alpha
AS_MEANT = Faults()
AS_RELEASED = Faults(**dict.fromkeys(Faults._fields, True))


def run(
    mixture: Mixture, objective: Objective, config: HmaConfig, faults: Faults = AS_MEANT
) -> tuple[Found, Tensor]:
    """Run `hma.learn_ratios` by Eq. 11 with some faults; the last scores are kept, not the best.

    Returns what was found (no path; `equal` is at the ratios of the start) and these scores, (K,).
    """
    blocks = mixture.partition.blocks
    hma.check_config(config, len(blocks))
    initial = torch.logit(torch.full((len(blocks),), config.alpha, dtype=torch.float64))
    scores = [score.clone().requires_grad_() for score in initial.unbind()]
    optimizers = [torch.optim.Adam([score], lr=config.learning_rate) for score in scores]
    linear = [[kind_of(n, mixture.theta[n]) == "linear" for n in held] for held in blocks.values()]
    repeats = [sum(each) if faults.multiplied_learning_rate else 1 for each in linear]
    mean = 1 - config.alpha if faults.alpha_of_theta_0 else config.alpha
    left = LEFT if faults.embeddings_of_theta_0 else {}

    def weights(ratios: Tensor) -> dict[str, Tensor]:
        return mixture.weights(mixture.partition.ratios(ratios.unbind(), mean) | left)

    @torch.no_grad()
    def merged(scores: Tensor) -> float:
        mixed = weights(merged_ratios(scores, config, faults))
        return hma.mean_objective(objective, mixed, config.batch_size)

    batches = hma.batches_of(len(objective), config)
    for step, chosen in enumerate(tqdm(batches, desc="test bench", unit="step", leave=False)):
        ratios = training_ratios(torch.stack(scores), initial, config, faults)
        loss = objective(weights(ratios), chosen)
        check_finite({"objective": loss.item()}, step + 1, config.learning_rate)
        slopes = torch.autograd.grad(loss, scores)
        rate = config.learning_rate * hma.schedule(step, len(batches))
        for score, slope, optimizer, count in zip(scores, slopes, optimizers, repeats, strict=True):
            score.grad, optimizer.param_groups[0]["lr"] = slope, rate
            for _ in range(count):
                optimizer.step()
    final = torch.stack(scores).detach()
    at_end = tuple(merged_ratios(final, config, faults).tolist())
    return Found(at_end, left, merged(final), merged(initial), []), final


def training_ratios(scores: Tensor, initial: Tensor, config: HmaConfig, faults: Faults) -> Tensor:
    """Return the ratios of theta that the forward pass uses in training, shape (K,)."""
    numerator = initial + scores - scores.detach() if faults.frozen_numerator else scores
    total = (torch.sigmoid(scores) + config.eps).sum()
    ratios = config.alpha * len(scores) * (torch.sigmoid(numerator) + config.eps) / total
    if faults.bf16_ratios:
        ratios = ratios.to(torch.bfloat16).to(torch.float64)
    return 1 - ratios if faults.alpha_of_theta_0 else ratios


def merged_ratios(scores: Tensor, config: HmaConfig, faults: Faults) -> Tensor:
    """Return the ratios of theta that the merge script uses, shape (K,): its formula is right."""
    return training_ratios(scores, scores, config, faults._replace(frozen_numerator=False))
