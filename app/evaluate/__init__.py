"""What a training changed."""
