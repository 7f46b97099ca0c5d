"""Cross entropy of a linear head: a reference, and one that holds few logits."""
