"""What an attacker could reconstruct from a site's shards, measured before they are shipped."""
