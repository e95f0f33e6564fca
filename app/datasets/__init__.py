"""What was observed: datasets, their series, and the chunks that hold them.

in    routes -> formats (columns, documents, unpacking, timestamps -> observations) -> ingest (placing, store, chunks)
out   routes -> reading -> answers;  training and serving -> service
"""
