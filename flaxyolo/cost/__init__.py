"""What a detector costs: latency, memory, parameters, GFLOPs; and the budget it must keep."""
