# All ranks stop together, whichever of them was asked to.
if [ "$code" -eq 0 ] && [ -f {{run}}/stopped.json ]; then
  exit 75
fi
