"""A loaded model: its weights, whether it fits, its two views, masks at work, decoding."""
