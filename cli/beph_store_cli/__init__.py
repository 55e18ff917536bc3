"""The command line: a command parses, makes one library call, renders."""
