"""Score sets of models beside each other: agreement and concentration."""
