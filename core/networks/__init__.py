"""Networks and what they put out: layers, encoders, decoders, heads, distributions."""
