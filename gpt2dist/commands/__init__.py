"""The verbs of the command line: one short module each, which declares the options and calls the library."""
