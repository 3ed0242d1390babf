"""Teachers: language models behind an OpenAI-compatible endpoint, cached and costed.

`config` says which endpoint, `client` asks it, `cache` keeps what it answered, `paraphrase` words the
question, and `abstracts` is the file of study abstracts. Nothing is imported here, because only `client`
needs the SDK of the protocol (extra `teacher`).
"""
