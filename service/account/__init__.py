"""The domain: a snapshot of one account, and the views that are cut from its bytes. Imports no other room."""
