# All ranks stop together, whichever pod was asked to, and leave stopped.json. That of an earlier stop does not count.
word() { cat {{run}}/stopped.json 2>/dev/null; }
before=$(word)
stopped() { [ -n "$(word)" ] && [ "$(word)" != "$before" ]; }
