"""What distilling methods share."""
