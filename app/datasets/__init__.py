"""What was observed: datasets, their series, and the chunks that hold them."""
