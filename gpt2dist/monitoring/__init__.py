"""Output of a running job: progress, metrics.jsonl, trackers such as TensorBoard, and rank logs."""
