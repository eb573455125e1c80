"""Inside the hospital: what reads and writes private data, and the outbox."""
