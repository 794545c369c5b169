"""The pages: a room each. `main.py` sets up and navigates."""
