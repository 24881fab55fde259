"""A CNN with BatchNorm on handwritten digits, with PyTorch."""
