"""Trained networks that label images, embed them, or are inverted; and the labels they give."""
