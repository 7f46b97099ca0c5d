"""Other trainers, a file for each; see `lumina.train.bench.peer`."""
