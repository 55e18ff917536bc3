"""Where the rooms meet: the jobs that the command line offers, one module each.

This file imports nothing, so that a reader process loads no more than it reads with.
"""
