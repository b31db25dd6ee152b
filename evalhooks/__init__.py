"""What is measured at a checkpoint, and what a study makes of it."""
