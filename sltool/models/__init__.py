"""Models: a privacy layer and a server network that fit. One file each."""
