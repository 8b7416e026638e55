"""How far the ranking can be trusted: rank statistics, their uncertainty, cost, and the report."""
