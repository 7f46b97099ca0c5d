"""How far back a model reads: hidden facts, and perplexity by position."""
