"""flaxyolo: the best YOLO backbone for your data, inside your latency and memory budget."""

__version__ = "0.1.0"
