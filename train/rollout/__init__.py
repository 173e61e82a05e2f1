"""Playing episodes with a trained agent: one player, its scores, films, predictions."""
