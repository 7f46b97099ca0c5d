"""The checks of data, a file each with a class named `CHECK`; see `..check`."""
