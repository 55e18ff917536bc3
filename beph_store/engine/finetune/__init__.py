"""Fine-tuning an encoder as a classifier of labelled tile images."""
