"""The first day of a user: the commands of docs/first-day.md, run as they stand there, and what they leave for a person to read."""
