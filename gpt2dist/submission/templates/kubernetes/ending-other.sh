# What was done is kept, and another start does what is left.
if [ -n "$asked" ] && { [ "$code" -ne 0 ] || {{endless}}; }; then
  exit 75
fi
