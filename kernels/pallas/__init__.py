"""The fused row products for NVIDIA Hopper GPUs (Pallas, Mosaic GPU)."""
