"""What a model is asked: needles, haystacks and recall, and the one place where messages become tokens."""
