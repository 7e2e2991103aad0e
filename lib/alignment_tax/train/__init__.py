"""Training: pretraining, instruction tuning, the reward model and RSF."""
