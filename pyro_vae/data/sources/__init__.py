"""Where data come from, one file a kind."""
