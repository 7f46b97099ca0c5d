"""The memory of a planned step: followed without memory, and measured on the device."""
