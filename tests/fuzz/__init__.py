"""Properties that hold for whatever is put in: settings, closures, state dicts, and what is published.

CI runs a few examples of each. The long run has a thousand of each, always the same ones:

    pytest tests/fuzz --hypothesis-profile=long --timeout=0
"""
