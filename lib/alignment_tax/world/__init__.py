"""The tiny world: facts, passages, French and chat, small enough to learn in an hour."""
