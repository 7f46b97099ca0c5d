"""Optimizer states that live beside the device and visit it page by page."""
