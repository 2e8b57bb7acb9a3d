"""The network between a log and those who write and read it: messages, and the client's side of them."""
