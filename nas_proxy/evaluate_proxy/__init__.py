"""What a proxy data set is worth: fixed networks trained on it, and a learner that replays it."""
