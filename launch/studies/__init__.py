"""A study: its jobs in order, the uses that choose among its reward models, and several seeds put together."""
