"""The Families page."""
