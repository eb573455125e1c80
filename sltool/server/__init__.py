"""At the server: queue, store, sampler, trainer, checkpoint, evaluation. Sees only shards."""
