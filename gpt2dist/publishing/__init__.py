"""Export of a checkpoint as a checked model with a model card."""
