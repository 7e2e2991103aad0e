"""Training: pretraining, instruction tuning, the reward model, RSF, DPO, PPO and RLOO."""
