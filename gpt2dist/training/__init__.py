"""The trainer: optimizer, schedule, DeepSpeed engine, checkpoints and the loop."""
