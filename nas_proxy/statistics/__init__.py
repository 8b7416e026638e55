"""Statistics that everything which judges shares: ranks and accuracies, with intervals."""
