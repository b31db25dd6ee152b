"""Bradley-Terry reward models: preference data, loss and training."""
