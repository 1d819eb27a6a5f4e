"""The files of a run directory. Importing these modules does not import torch."""
