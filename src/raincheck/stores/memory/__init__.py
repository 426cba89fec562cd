"""The task store in memory."""
