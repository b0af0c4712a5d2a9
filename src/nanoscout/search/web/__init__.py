"""The open web behind the same two tools: a search service finds pages, and a page is fetched.

`engine.py` is the search engine; `services.py` says how each service is asked; `fetch.py` gets a
page under the rules of `guard.py` (no address that is not public) and `robots.py`; `reader.py`
makes text of it; `cache.py` keeps answers, and records and replays them.
"""
