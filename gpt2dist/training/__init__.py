"""The trainer: optimizer, schedule, DeepSpeed engine, resuming and the training loop."""
