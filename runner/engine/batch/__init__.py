"""The batch engine: the same tasks as the pool's, sent through the Batch API and collected hours later.

Owns the life of a batch, from the tasks that it is made of to the last answer in it. `courier` is the order of things:
`drafting` fills batches, `sending` brings them to the provider (exactly once, whatever is killed), `watching` looks how
far they are, `collecting` reads their results, `settling` gives each request its ending, `inputs` are the pictures that
lie at the provider. Refuses to decide: `rules.batching` says how large and when.
"""
