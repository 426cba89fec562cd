"""The task store on Redis or Valkey."""
