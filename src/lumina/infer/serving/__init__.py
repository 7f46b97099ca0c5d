"""A server that answers several requests side by side, as OpenAI's API forms them."""
