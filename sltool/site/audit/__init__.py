"""What an attacker would rebuild from a site's shards, measured at the site before they ship."""
