"""What several test files share: a study so small that a whole run takes seconds."""

import dataclasses

import pytest
from hypothesis import settings

from alignment_tax import presets
from alignment_tax.presets import PartGrid, Preset, RatioGrid

# a busy machine is no failure
settings.register_profile("course", deadline=None)
settings.load_profile("course")


def miniature() -> Preset:
    """The smoke preset cut down further, under a name of its own."""
    smoke = presets.get("smoke")
    rsf = dataclasses.replace(
        smoke.rsf, rounds=2, prompts_per_round=4, n=2, batch_size=2, learning_rate=2e-3
    )
    return dataclasses.replace(
        smoke,
        name="miniature",
        threads=1,
        # learning rates at which even a few steps change what the model says, and enough of them
        # for replies that end: RSF keeps no others
        sft=dataclasses.replace(smoke.sft, documents=96, batch_size=4, learning_rate=2e-3),
        reward=dataclasses.replace(
            smoke.reward, pairs=16, validation_pairs=8, batch_size=4, learning_rate=2e-3
        ),
        rsf=rsf,
        dpo=None,
        rloo=None,
        ppo=None,
        kl_coefs=(),
        ppo_live=None,
        distil=presets.DistilConfig.like(rsf),
        ratios=dataclasses.replace(
            presets.TINY_RATIOS,
            prompts=8,
            n=4,
            epochs=6,
            batch_size=4,
            evaluate_every=2,
            grid_step=0.2,
            reward_step=0.3,
            reward_prompts=4,
            kept_texts=4,
            labelled=4,
            parts=(PartGrid("input", (0.5,)), PartGrid("linear", (0.5,))),
            grids=(RatioGrid("hma", 3, (0.3,)), RatioGrid("hma_grid", 3, (0.3,))),
        ),
        eval=dataclasses.replace(smoke.eval, limit=4, batch_size=32, reward_prompts=4),
    )


@pytest.fixture(scope="session")
def preset() -> Preset:
    return miniature()
