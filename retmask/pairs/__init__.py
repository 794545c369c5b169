"""Contrastive pairs: the pair and its gate, the review, prompts, and the job that makes them."""
