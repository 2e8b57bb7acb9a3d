"""`cidr serve`: queries over HTTP, as JSON and as a page. See docs/cidr.md and /openapi.json.

run.py      listens, with limits on connections, time and size
app.py      routes, and how failures are told
desk.py     queries in a few threads, a bounded number waiting, each for a bounded time
scopes.py   tokens, and what each may see
"""
