"""A survey as tables: for people, for articles and for programs."""
