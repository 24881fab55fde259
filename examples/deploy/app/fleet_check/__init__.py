"""A model whose optimum is known, trained by a fleet."""
