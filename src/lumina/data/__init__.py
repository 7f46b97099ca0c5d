"""Text -> documents -> token store -> packed, resumable batches."""
