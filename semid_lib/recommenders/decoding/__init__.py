"""Search for the best items of a model that writes them code by code."""
