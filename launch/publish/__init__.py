"""A sweep of reward models as one repository of a hub: a revision for each run, with one model card."""
