"""The stages of a study. Each reads what earlier ones wrote and writes its own folder."""
