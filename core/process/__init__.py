"""This process among others: its rank and device, signals, memory, and how it ends."""
