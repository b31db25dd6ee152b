"""RLOO and GRPO: policies trained without a critic."""
