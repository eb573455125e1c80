"""BEFORE A STUDY STARTS: whoever leads it makes it here, with or without data."""
