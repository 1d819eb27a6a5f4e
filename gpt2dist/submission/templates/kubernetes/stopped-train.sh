# All ranks stop together, whichever pod was asked to stop, and write stopped.json. That of an earlier stop is ignored.
word() { cat {{run}}/stopped.json 2>/dev/null; }
before=$(word)
stopped() { [ -n "$(word)" ] && [ "$(word)" != "$before" ]; }
