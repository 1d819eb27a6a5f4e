"""Jobs for schedulers: what is asked for, its record in the run directory, and the script that is submitted."""
