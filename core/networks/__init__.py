"""Neural networks of DreamerV3: layers, encoders, decoders, heads, distributions."""
