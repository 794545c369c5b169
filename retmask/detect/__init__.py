"""Which heads copy: the score, the trials, the detectors and their job."""
