"""The exchange: signed calls, the weight they cost, and every way they fail."""
