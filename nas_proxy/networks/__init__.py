"""The fixed networks that distilling and teaching use."""
