"""The gateway: agents speak their own API, training gets exactly the tokens that were sampled.

Contract of the room:

* A session belongs to one attempt of one trial. Its random key is the capability; everything kept or logged shows only the key's hash.
* A session is a tree (`tree`). Each node holds only the tokens it adds and says where they came from: context or sampled. Sampled tokens
  are never rendered again, carry the log-probability and the version they were sampled with, and are trainable in exactly one path.
* A path through the tree is exactly what the engine was given and answered, token for token.
* A sampled turn is on disk before the client sees the end of its answer (`record.session_journal`). A killed gateway serves the same
  sessions again.
* While the engine is away, requests wait (`gate`); the time they wait is reported per session and counts against nobody.

Reading order: `chat` (the internal form of a conversation), `tokenizer`, `template`, `tree`, `placement`, `gate`, `sampling`,
`session`, `parsers`, `dialects`, `server`, `admin`.
"""
