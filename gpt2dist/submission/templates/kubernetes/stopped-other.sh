# Finished work is kept, and the next start does the rest.
stopped() { [ -n "$asked" ] && [ -n "$code" ] && { [ "$code" -ne 0 ] || {{endless}}; }; }
