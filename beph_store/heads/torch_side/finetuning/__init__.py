"""Fine-tuning an encoder with a linear head on top as a classifier of tiles, in torch."""
