"""What words say of the safety of generated texts, and what they do not."""
