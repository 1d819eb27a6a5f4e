"""One short file per verb: parse, build, call."""
