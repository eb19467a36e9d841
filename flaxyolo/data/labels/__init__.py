"""What is wrong with labels, and what is done about it."""
