"""1 READ: the outside world becomes Arrow record batches.

A source knows positions, never tables: it answers "what is there now", reads a closed range again and again
with the same result, and says which stream it is. `tables/landed.py` takes over from here.
"""
