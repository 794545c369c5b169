"""Heads without a model: their grid, masks, scores and intervals, and the files that hold them."""
