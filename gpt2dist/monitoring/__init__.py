"""What a run shows while it works: progress, metrics.jsonl, TensorBoard, rank logs."""
