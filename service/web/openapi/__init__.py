"""What the gateway says of itself: the OpenAPI 3.1 document, as values. Knows the edge's facts, not its framework."""
