"""Jobs that are killed at counted operations, done again, and compared with the same job left in peace."""
