"""Which versions of which models are served: found, loaded, swapped, unloaded."""
