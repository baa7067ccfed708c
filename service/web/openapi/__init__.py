"""What the gateway says of itself: the OpenAPI 3.1 document, as values."""
