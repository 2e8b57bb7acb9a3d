"""The page of the server. It works without JavaScript, loads nothing from elsewhere, and escapes everything."""
