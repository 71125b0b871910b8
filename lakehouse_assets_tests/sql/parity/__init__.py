"""What Spark answered: expressions and queries of the portable dialect, over small tables full of edges."""
