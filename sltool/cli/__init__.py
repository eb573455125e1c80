"""What a person types: thin commands, the only code that prints."""
