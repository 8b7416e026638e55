"""Real and distilled images: loading, splitting, transforming, augmenting."""
