"""What recorded points say: fronts, intervals, verdicts, claims; no model is needed."""
