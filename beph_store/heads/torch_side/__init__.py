"""The heads that need torch. Nothing else in this room may import it."""
