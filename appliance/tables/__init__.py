"""Floor 0: declarations, one table each. What repeats them elsewhere is rendered from them."""
