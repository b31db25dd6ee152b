"""What runs at a checkpoint, and where: in the training process, in one beside it, or in anyone's TRL trainer."""
