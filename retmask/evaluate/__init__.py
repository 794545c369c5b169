"""What changed, measured against controls."""
