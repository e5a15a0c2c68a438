"""What `serving.client` is made of: its input files, REST and gRPC, and batches of images."""
