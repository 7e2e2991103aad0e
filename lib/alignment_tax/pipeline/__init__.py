"""From a preset and a seed to models, scores and recorded tables."""
