"""What `serving.client` is made of: one file for each way to reach a server, and for its input."""
