"""What every run has: rounds, greetings, checkpoints, step sizes."""
