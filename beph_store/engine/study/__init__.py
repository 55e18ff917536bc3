"""From a store and a table of labels to heads, figures and a report. Imports nothing on its own."""
