"""Pre-training on one's own tiles: sources, teacher and trunk in, an encoder's bundle out."""
