"""What several test modules share: problems, judges, small models."""
