"""The studies: each file is one, with its results in `results/`; README.md says what was found."""
