"""What data are like, and what that advises."""
