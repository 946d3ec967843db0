"""One object brought up to date: a room for each of our kinds; the controller says which, when."""
