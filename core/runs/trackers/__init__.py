"""Trackers beside the plain files: Weights & Biases, TensorBoard, MLflow and trackio."""
