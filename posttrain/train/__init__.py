"""What the trainers share because a mistake in it would be silent. The loop stands in each trainer."""
