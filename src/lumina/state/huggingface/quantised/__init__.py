"""Folders whose matrices are in few bits already, as other tools wrote them."""
