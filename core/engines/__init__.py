"""Where weights, gradients and optimiser state lie in training: one process, DDP, FSDP2, DeepSpeed's ZeRO; and how training resumes."""
