"""Shipped for tests, benchmarks and the demo: synthetic slides and contract suites."""
