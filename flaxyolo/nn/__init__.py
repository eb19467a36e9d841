"""The network: from specs to NNX modules."""
