"""How much each scope may have under way in this process."""
