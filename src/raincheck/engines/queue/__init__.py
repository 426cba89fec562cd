"""What engines on an existing queue share."""
