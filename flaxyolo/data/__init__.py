"""From files and built-in scenes to batches on the device."""
