"""What a run tells: metrics, their file, and pages made of them."""
