"""The ports that adapters implement: stores, records, blobs, engines."""
