"""Weights of blocks that live beside the device and come to it block by block."""
