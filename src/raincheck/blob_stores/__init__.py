"""The places where blobs are kept: one module each."""
