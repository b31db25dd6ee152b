"""What a study does beyond training its reward models: the uses that choose among them, and several seeds put together."""
