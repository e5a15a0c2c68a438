"""Where images come from: archives, arrays, folders, TFDS; used through `training.data`."""
