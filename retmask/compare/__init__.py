"""What masking does to an answer: one prompt side by side, traces, the dose curve, checkpoints."""
