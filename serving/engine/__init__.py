"""One loaded version of a model: arrays in, arrays out, whatever the transport."""
