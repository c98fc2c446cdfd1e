"""A folder of pictures and what is said about them: read, checked, edited, laid out in buckets."""
