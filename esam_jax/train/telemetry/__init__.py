"""What a run reports while it lasts."""
