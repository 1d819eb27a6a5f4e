"""The distributed environment of a process: ranks, launchers, and the import of DeepSpeed."""
