"""What trains a network: its loss, schedule, callbacks and devices; used through `training.fit`."""
