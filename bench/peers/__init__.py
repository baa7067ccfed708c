"""What the gateway is compared with: each a process of its own, with the same body and the same exchange."""
