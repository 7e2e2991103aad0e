"""The stages of a run: from a run and a spec each makes an artifact, or loads it.

What trains a model is registered under the spec's `protocol`, with `check`: everything that a stage
refuses, it refuses there, before anything is made.
"""

from alignment_tax.pipeline.stages import base, ratios, remedies, rlhf, scores
from alignment_tax.pipeline.stages.run import trained
