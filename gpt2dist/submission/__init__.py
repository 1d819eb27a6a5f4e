"""Jobs for schedulers: their description, their record in the run directory, and their scripts."""
