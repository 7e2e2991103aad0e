"""Group relative policy optimisation (GRPO), by TRL's GRPOTrainer (Shao et al. 2024, 2402.03300).

RLOO (rloo.py) with two changes that are TRL's defaults: the advantage of a reply is divided by the
standard deviation of its group's rewards (and 1e-4), so that every group counts alike, and there is
no KL penalty. The loss is that of DAPO (Yu et al. 2025): the mean over all tokens of a step.
"""

from functools import partial

from trl import GRPOConfig as TrlGrpoConfig, GRPOTrainer

from alignment_tax.train.rloo import ByTrl, rloo_round

GRPO = ByTrl("GRPO", GRPOTrainer, TrlGrpoConfig)
grpo_round = partial(rloo_round, by=GRPO)
