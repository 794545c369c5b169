"""What an evaluation's items are made of: values, packing to an exact length, prose, an invented world, metrics."""
