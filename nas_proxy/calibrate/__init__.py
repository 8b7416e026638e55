"""Finding the cheapest recipe whose ranking can be trusted."""
