"""Labels of tiles and slides, a head that follows them, what to label next, and clusters of a whole recipe."""
