"""The APIs agents speak. One module per API; each turns a request into `chat.ChatRequest` and a sampled turn into that API's answer."""
