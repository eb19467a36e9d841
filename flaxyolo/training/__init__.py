"""How a detector is trained: plan, assignment, loss, loop and state."""
