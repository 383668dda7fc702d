"""What the trainers share because a mistake would be silent. The loop stands in each trainer."""
