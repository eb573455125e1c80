"""Models: networks that are cut into a privacy layer and a server network, a file for each."""
