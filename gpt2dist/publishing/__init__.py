"""A checkpoint as a model for others: checked, with a model card."""
