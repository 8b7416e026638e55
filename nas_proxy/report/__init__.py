"""Everything that draws or writes the report: its values, figures and pages."""
