"""Makes of tokenizers: one file for each way in which vocabularies are stored."""
