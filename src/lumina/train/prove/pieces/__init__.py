"""The pieces of a bundle, a file for each; see `lumina.train.prove.piece`."""
