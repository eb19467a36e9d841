"""What a trained detector is taken into use with."""
