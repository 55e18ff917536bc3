"""Several encoders on the same labelled tiles: one table, one plot, intervals over cases, differences to a baseline."""
