"""Results for people's eyes: text and pictures."""
