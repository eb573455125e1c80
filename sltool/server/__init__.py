"""The server: queue, store, sampler, trainer, checkpoint, evaluation. It handles shards only."""
