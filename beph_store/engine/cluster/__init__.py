"""Work spread over the machines of a Ray cluster. Ray itself is imported inside functions only."""
