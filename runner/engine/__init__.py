"""Makes the images: `pool` (online), `recovery` (what a dead run left, and what need not be made at all).

Owns the order of things for one task: reserve, wait, record, send, store, record, settle. Refuses to print, to read
manifests and to decide: it asks `rules` and acts on the answer.
"""
