"""From a user's data to records and token ids: dialogues, preference pairs, files and hub datasets, chat templates, padding."""
