# What was done is kept, and another start does what is left.
stopped() { [ -n "$asked" ] && [ -n "$code" ] && { [ "$code" -ne 0 ] || {{endless}}; }; }
